"""The space that the puller may use in an emptyDir: the smallest of the pod's limits.

A kubelet evicts a pod that exceeds one of them. The file system shows the puller none of them:

- `sizeLimit` of the volume. All its content counts, from every writer.
- `ephemeral-storage` limits of the containers. Their sum applies to all volumes on the node's disk
  together, and logs and files outside volumes count too. A tenth is left for those.
- With `medium: Memory`, the writes of a container count against its own memory limit, and the
  puller is the writer. It needs some memory for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from trainedmodel_contract.quantity import parse_bytes

from trainedmodel_operator.core.document import Document

MEMORY: Final = "Memory"
#: What the puller itself needs at most, in bytes; of a small limit it is left half.
OWN_MEMORY: Final = 256 * 2**20
#: Of the containers' ephemeral storage, so much of ten is for models.
_TENTHS: Final = 9


def volume_limit(spec: Document, empty_dir: Document, puller_memory: str) -> int | None:
    """Return how many bytes an emptyDir of a pod may hold; None: as many as the node has.

    Args:
        spec: The pod's.
        empty_dir: The volume's source.
        puller_memory: Memory limit of the puller; empty: none.
    """
    limits = [_size(empty_dir.get("sizeLimit"))]
    if is_in_memory(empty_dir):
        limits.append(memory_for_models(puller_memory))
    else:
        limits.append(_of_ephemeral_storage(spec))
    return min((limit for limit in limits if limit), default=None)


def is_in_memory(empty_dir: Document) -> bool:
    """Tell whether what is in the volume takes memory."""
    return empty_dir.get("medium") == MEMORY


def memory_for_models(puller_memory: str) -> int | None:
    """Return how much the puller may write to memory; None: its memory has no limit."""
    if not puller_memory:
        return None
    whole = parse_bytes(puller_memory)
    return whole - min(OWN_MEMORY, whole // 2)


def _of_ephemeral_storage(spec: Document) -> int | None:
    """Return the part for models of what the kubelet holds the whole pod to."""
    sidecars = [one for one in spec.get("initContainers") or () if _is_sidecar(one)]
    others = [one for one in spec.get("initContainers") or () if not _is_sidecar(one)]
    running = sum(_storage([*sidecars, *(spec.get("containers") or ())]))
    whole = max(running, *_storage(others), 0)
    return whole * _TENTHS // 10


def _is_sidecar(container: Document) -> bool:
    return container.get("restartPolicy") == "Always"


def _storage(containers: list[Document]) -> Iterator[int]:
    for container in containers:
        limits = (container.get("resources") or {}).get("limits") or {}
        yield _size(limits.get("ephemeral-storage")) or 0


def _size(quantity: object) -> int | None:
    """Return a quantity in bytes; None if there is none, or none that can be read."""
    try:
        return parse_bytes(quantity) if isinstance(quantity, str | int) else None
    except ValueError:
        return None
