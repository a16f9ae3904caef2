"""The revision: the identity of what a server must serve.

Two specs have one revision exactly when the same bytes, served under the same name and loaded the
same way, satisfy both. Memory, credentials, labels and the parent are not in it: they may change
without a reload.
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
    """Return the first 16 hexadecimal digits of the sha256 of the canonical JSON of the six.

    `parameters` that are empty count as absent, and so does an empty `version`.
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
