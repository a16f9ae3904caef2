"""Shard documents: from a placement to bytes, and from two sides to the smallest write.

This module owns the form of a shard ConfigMap, and the difference between the stored and the
desired one. A write is a merge patch of the differing keys only, always with the manifest, so that
no reader ever finds entries without the manifest that proves them whole. The patch carries the
resourceVersion that was read, so a write in between is a conflict. If that write changed nothing
that the plan depends on, the same patch applies to the new version (`rebase`). Otherwise the pass
is made again.

Equal input gives equal bytes (O2): entries and manifest are canonical JSON, keys are written in
order, and a shard that is already correct gives no write. Two operators that see the same state
write the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from typing import Any

from trainedmodel_contract import names
from trainedmodel_contract.entry import EntryError
from trainedmodel_contract.shard import config_digest, make_manifest, parse_manifest

from trainedmodel_operator.core.state import ServiceKey, ShardView

Patch = dict[str, Any]


class WriteKind(StrEnum):
    """How a shard is written."""

    CREATE = "create"
    PATCH = "patch"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class ShardWrite:
    """One write of one ConfigMap.

    Attributes:
        body: The whole object to create, the merge patch, or the preconditions of the deletion.
        reason: The change, for the log.
        base: The shard that a patch was made for.
    """

    kind: WriteKind
    index: int
    name: str
    body: Mapping[str, Any]
    reason: str
    base: ShardView | None = None


def shard_labels(key: ServiceKey, index: int) -> dict[str, str]:
    """Return the labels that make a ConfigMap a shard."""
    return {
        names.MANAGED_BY_LABEL: names.MANAGED_BY,
        names.PARENT_LABEL: key.service,
        names.SHARD_LABEL: str(index),
    }


def render_shard(index: int, entries: Mapping[str, str]) -> dict[str, str]:
    """Render a shard's data: its manifest, and each entry (by object name) under its key."""
    keyed = {names.entry_key(name): entries[name] for name in sorted(entries)}
    return {names.manifest_key(index): make_manifest(index, keyed).to_json(), **keyed}


def new_shard(key: ServiceKey, index: int, data: Mapping[str, str]) -> dict[str, Any]:
    """Make the ConfigMap of a shard that does not exist yet."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names.shard_name(key.service, index),
            "namespace": key.namespace,
            "labels": shard_labels(key, index),
        },
        "data": dict(data),
    }


def diff_shard(key: ServiceKey, view: ShardView, wanted: Mapping[str, str]) -> Patch | None:
    """Return the merge patch to the desired shard; None if it is equal."""
    data: dict[str, str | None] = {
        name: wanted.get(name)
        for name in sorted(set(wanted) | set(view.data))
        if wanted.get(name) != view.data.get(name)
    }
    labels = {
        name: value
        for name, value in shard_labels(key, view.index).items()
        if view.labels.get(name) != value
    }
    if not data and not labels:
        return None
    patch: Patch = {"metadata": {"resourceVersion": view.resource_version}}
    if labels:
        patch["metadata"]["labels"] = labels
    if data:
        manifest = names.manifest_key(view.index)
        patch["data"] = {manifest: wanted[manifest], **data}
    return patch


def rebase(write: ShardWrite, found: ShardView | None) -> ShardWrite | None:
    """Return the write for a shard with a newer version; None if the pass must decide.

    Its data and our labels are all that a pass decides upon; an annotation, another's label or a
    field manager is not.
    """
    base = write.base
    if base is None or found is None or not found.is_ours or found.data != base.data:
        return None
    ours = (names.MANAGED_BY_LABEL, names.PARENT_LABEL, names.SHARD_LABEL)
    if any(found.labels.get(one) != base.labels.get(one) for one in ours):
        return None
    metadata = {**write.body["metadata"], "resourceVersion": found.resource_version}
    return replace(write, body={**write.body, "metadata": metadata}, base=found)


def attempt(write: ShardWrite) -> str:
    """Return the identity of a write: two that make the same change are equal."""
    metadata = dict(write.body.get("metadata") or {})
    metadata.pop("resourceVersion", None)
    said = {"kind": write.kind, "metadata": metadata, "data": write.body.get("data")}
    return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def describe(view: ShardView, wanted: Mapping[str, str]) -> str:
    """Say in a few words how a shard changes, for the log."""
    before = {key for key in view.data if names.object_name(key) is not None}
    after = {key for key in wanted if names.object_name(key) is not None}
    changed = sum(1 for key in before & after if view.data[key] != wanted[key])
    return f"+{len(after - before)} ~{changed} -{len(before - after)} entries"


def seen_digest(shards: Iterable[tuple[int, Mapping[str, str]]]) -> str:
    """Return the digest that a pod reports when it has seen these shards (index and data)."""
    digests: dict[int, str] = {}
    for index, data in shards:
        text = data.get(names.manifest_key(index))
        if text is None:
            continue
        try:
            digests[index] = parse_manifest(text).digest
        except EntryError:
            continue
    return config_digest(digests)
