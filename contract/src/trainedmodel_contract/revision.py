"""The revision: the identity of a model to serve.

Two specs have the same revision exactly when the same bytes, served under the same name and loaded
in the same way, satisfy both. Memory, credentials, labels and the service are not part of it: they
may change without a reload.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trainedmodel_contract.canonical import canonical_json, sha256_hex

REVISION_LENGTH: Final = 16


def compute_revision(
    *,
    storage_uri: str,
    name: str,
    framework: str,
    version: str | None = None,
    digest: str | None = None,
    parameters: Mapping[str, str] | None = None,
) -> str:
    """Return the first 16 hexadecimal digits of the sha256 of the six fields' canonical JSON.

    Empty `parameters` and an empty `version` count as absent.
    """
    identity = {
        "digest": digest or None,
        "framework": framework,
        "name": name,
        "parameters": dict(parameters) if parameters else None,
        "storageUri": storage_uri,
        "version": version or None,
    }
    return sha256_hex(canonical_json(identity))[:REVISION_LENGTH]
