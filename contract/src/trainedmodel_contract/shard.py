"""Shards: the ConfigMaps that hold entries, and the manifest that proves that one is whole.

A pod mounts all shards of its service into one folder. The folder does not show whether a file is
missing because its model was deleted or because the folder is half written. So each shard has a
manifest with the count and digest of its entries. A shard whose files do not match its manifest is
unreadable, which differs from empty.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainedmodel_contract import names
from trainedmodel_contract.canonical import canonical_json, sha256_hex
from trainedmodel_contract.entry import EntryError


class ShardManifest(BaseModel):
    """Count and digest of one shard's entries."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    shard: int = Field(ge=0, lt=names.SHARD_COUNT)
    entries: int = Field(ge=0)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")

    def to_json(self) -> str:
        """Render the manifest canonically."""
        return canonical_json(self.model_dump())


def entries_digest(entries: Mapping[str, str | bytes]) -> str:
    r"""Return the digest of a shard's entries: sha256 over each key and its value's sha256.

    Entries are taken in the order of their keys, each as `<key>\n<sha256 hex of value>\n`.
    """
    whole = hashlib.sha256()
    for key in sorted(entries):
        value = entries[key]
        raw = value.encode() if isinstance(value, str) else value
        whole.update(f"{key}\n{hashlib.sha256(raw).hexdigest()}\n".encode())
    return whole.hexdigest()


def make_manifest(index: int, entries: Mapping[str, str | bytes]) -> ShardManifest:
    """Make the manifest of shard `index` over `entries` (key to value, manifest excluded)."""
    return ShardManifest(shard=index, entries=len(entries), digest=entries_digest(entries))


def parse_manifest(text: str | bytes) -> ShardManifest:
    """Parse a manifest.

    Raises:
        EntryError: it is not a manifest.
    """
    try:
        return ShardManifest.model_validate_json(text)
    except ValidationError as error:
        raise EntryError(f"not a shard manifest: {error.error_count()} faults") from error


def config_digest(manifests: Mapping[int, str]) -> str:
    """Return one digest over the digests of the shards that exist (index to digest).

    A pod reports the digest of the shards that it has seen. The operator computes it for the
    shards that it wrote. Equal digests mean that the pod has seen everything.
    """
    return sha256_hex(canonical_json({str(index): digest for index, digest in manifests.items()}))[
        :32
    ]
