"""Room: what fits on the volume and into the server's memory, and what must go for it.

Disk. A download is admitted when it fits beside what the transfers under way still promise to
write, with a reserve left over. One that does not fit is `Blocked/InsufficientDisk` and tried
again at once when there is room, however that came about. Replaced revisions are kept for instant
rollbacks, within a count a model and bytes over all; when a download needs their room they go
first, least recently wanted first, and only if that is enough.

Memory. What models declare is summed over those that the server has or is being given; one that
would pass the budget waits, and smaller ones may pass it by (first fit, so nothing waits for the
largest). A model that the server has is never sacrificed for another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from trainedmodel_puller.core.state import (
    DesiredState,
    DiskModel,
    Failure,
    Limits,
    ObservedState,
    ServerState,
    Stage,
    WantedModel,
)

#: A failed admission is not tried again before this many seconds: free space is a moving number.
_RETRY_S: Final = 1.0
_NOTHING: Final = DiskModel()


@dataclass(frozen=True, slots=True, order=True)
class Kept:
    """A tree that nothing serves and nothing wants; ordered by who goes first."""

    retired: float
    name: str
    revision: str
    size: int = field(compare=False)


def available_bytes(observed: ObservedState, limits: Limits, but: str | None = None) -> int | None:
    """Return what a new download may write: free, less the reserve and all promises.

    The transfer of `but` is not counted. None while the free space is not known.
    """
    if observed.free_bytes is None:
        return None
    promised = sum(
        max((transfer.total_bytes or 0) - transfer.received_bytes, 0)
        for name, transfer in observed.transfers.items()
        if name != but
    )
    return observed.free_bytes - promised - limits.reserve_bytes


def fits_now(failure: Failure, available: int | None, now: float) -> bool:
    """Tell whether what did not fit would fit by now."""
    return (
        failure.needs_bytes is not None
        and available is not None
        and available >= failure.needs_bytes
        and now >= failure.failed_at + _RETRY_S
    )


def kept_trees(name: str, disk: DiskModel, wanted: str | None) -> Iterator[Kept]:
    """Yield the trees of a name that may go: not wanted, not loaded.

    While an update is under way, nothing that the server sees goes either: it may be in use.
    """
    is_settled = wanted is not None and disk.loaded == wanted
    for revision, tree in disk.trees.items():
        if revision in {wanted, disk.loaded}:
            continue
        if revision in disk.published and not is_settled:
            continue
        yield Kept(tree.retired, name, revision, tree.size)


def surplus(kept: list[Kept], limits: Limits) -> list[Kept]:
    """Return which of the trees kept for rollbacks are too many, or too large together."""
    gone: list[Kept] = []
    counts: dict[str, int] = {}
    left: list[Kept] = []
    for tree in sorted(kept, reverse=True):
        counts[tree.name] = counts.get(tree.name, 0) + 1
        (left if counts[tree.name] <= limits.keep_versions else gone).append(tree)
    excess = sum(tree.size for tree in left) - limits.keep_bytes
    for tree in reversed(left):
        if excess <= 0:
            break
        excess -= tree.size
        gone.append(tree)
    return gone


def evict(kept: list[Kept], missing: int) -> list[Kept]:
    """Return which trees must go to free `missing` bytes; none if all together are too few."""
    gone: list[Kept] = []
    for tree in sorted(kept):
        if missing <= 0:
            break
        missing -= tree.size
        gone.append(tree)
    return gone if missing <= 0 else []


class MemoryBudget:
    """Counts declared memory while a plan is made."""

    def __init__(self, desired: DesiredState, observed: ObservedState, limits: Limits) -> None:
        self._limit = limits.memory_budget
        self._observed = observed
        self._used = 0
        if not self._limit:
            return
        for name in observed.disk.keys() | observed.transfers.keys() | desired.models.keys():
            self._used += self._held(name, desired.models.get(name))

    def refusal(self, wanted: WantedModel) -> str | None:
        """Admit a model, or say why not."""
        if not self._limit:
            return None
        need = wanted.entry.memory or 0
        more = need - self._held(wanted.entry.name, wanted)
        if more <= 0:
            return None
        if self._used + more > self._limit:
            left = max(self._limit - self._used, 0)
            return f"needs {readable(need)}, {readable(left)} of {readable(self._limit)} left"
        self._used += more
        return None

    def _held(self, name: str, wanted: WantedModel | None) -> int:
        observed = self._observed
        disk = observed.disk.get(name, _NOTHING)
        declared = wanted.entry.memory or 0 if wanted is not None else disk.memory
        if name in observed.transfers or observed.server_actions.get(name) is Stage.LOAD:
            return declared
        if observed.server.state_of(name) is ServerState.ABSENT:
            return 0
        is_current = wanted is not None and disk.loaded == wanted.entry.revision
        return declared if is_current else disk.memory


def readable(count: int) -> str:
    """Render bytes for people."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
