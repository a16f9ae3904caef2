"""Admission by space: to the volume and to the server's memory, and eviction for it.

Disk. A download is admitted if it fits beside the bytes that running transfers will still write,
and leaves a reserve. One that does not fit is `Blocked/InsufficientDisk` and retried as soon as
there is space. Replaced revisions are kept for instant rollbacks, within a count for each model and
a limit of bytes over all. When a download needs their space they are evicted, least recently wanted
first, and only if that frees enough. Trees that are being deleted count as free in that decision,
although the free space does not show them yet. So no further revision is evicted for the same bytes
(`Freeing`).

A volume may have a limit below the size of its disk (an emptyDir's `sizeLimit`). Exceeding it is
worse than a full disk: no write fails, and the kubelet evicts the pod. So the smaller of both
counts. While the usage of the volume is unknown, nothing fits.

Memory. The sum of the declared memory is over the models that the server has or is loading. A model
that would exceed the budget waits, and smaller ones may pass it (first fit, so nothing waits for
the largest). A model that the server has is never evicted for another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

from trainedmodel_contract.quantity import format_bytes, format_part

from trainedmodel_puller.core.state import (
    DesiredState,
    DiskModel,
    Failure,
    Instant,
    Limits,
    ObservedState,
    Remove,
    ServerState,
    Stage,
    Transfer,
    WantedModel,
)

#: Bytes of a file or folder beside its content: the rest of its last block, its entry, its record.
_BESIDE_FILE_BYTES: Final = 4096
#: Files and folders that each tree has beside those of its source.
_OWN_FILES: Final = 6
#: A stream of unknown size is counted by pieces of 1 MiB, when they are written.
_AHEAD_BYTES: Final = 3 * 2**20
#: A volume's limit divided by this is reserved; for a large limit, the usual reserve.
_RESERVED_PART: Final = 16
#: Least pause between two measurements of a volume, in seconds and as a multiple of their duration:
#: after changes while a model waits for space; after changes, or while one waits; and at rest, when
#: only other programs may have written.
_WANTED: Final = (0.5, 10)
_STALE: Final = (5.0, 20)
_AT_REST: Final = (60.0, 200)
#: Seconds until a failed admission is tried again, because free space varies all the time.
_RETRY_S: Final = 1.0
#: Seconds after a removal until the free space shows it. File systems free in the background: XFS
#: showed nothing of 40 MiB right after their removal, and all of it within 7 ms on an idle machine.
_FREED_S: Final = 1.0
_NOTHING: Final = DiskModel()


@dataclass(frozen=True, slots=True, order=True)
class Kept:
    """A tree that is neither served nor wanted; sorted in the order of eviction."""

    retired: float
    name: str
    revision: str
    size: int = field(compare=False)


def available_bytes(observed: ObservedState, limits: Limits, but: str | None = None) -> int | None:
    """Return the bytes that a new download may write: free, less reserve and reservations.

    The transfer of `but` is not counted. None while the free space is not known.
    """
    if observed.free_bytes is None:
        return None
    promised = sum(
        _promised(transfer, limits) for name, transfer in observed.transfers.items() if name != but
    )
    return observed.free_bytes - promised - limits.reserve_bytes


def _promised(transfer: Transfer, limits: Limits) -> int:
    """Return what a transfer will still write; one of unknown size writes at least what is ahead.

    Where a limit is not to be passed, what it writes before it is counted is kept free for it.
    """
    total, received = transfer.total_bytes, transfer.received_bytes
    if total is None:
        return 0  # not let in yet
    is_open = received > total or not total
    return ahead_bytes(limits) if is_open else total - received


def ahead_bytes(limits: Limits) -> int:
    """Return the bytes that a transfer of unknown size may write before they are counted."""
    return _AHEAD_BYTES if limits.volume_limit else 0


def free_within(of_disk: int | None, limit: int, used: int | None) -> int | None:
    """Return what may be written to a volume with a limit (0: none), of which `used` is taken.

    None while nothing is known. It is negative if more is in the volume than there may be.
    """
    if not limit:
        return of_disk
    left = 0 if used is None else limit - used
    return left if of_disk is None else min(of_disk, left)


def reserve_within(reserve: int, limit: int) -> int:
    """Return the bytes that downloads leave free: a reserve, or a part of a small limit."""
    return min(reserve, limit // _RESERVED_PART) if limit else reserve


def bytes_beside(sizes: Collection[int], limits: Limits) -> int:
    """Return the bytes that a tree takes in addition to its files' sizes (-1: unknown size).

    They count only on a volume with a limit.
    """
    if not limits.volume_limit:
        return 0
    blocks = (len(sizes) + _OWN_FILES) * _BESIDE_FILE_BYTES
    return blocks + (ahead_bytes(limits) if min(sizes, default=0) < 0 else 0)


def is_measurement_due(age_s: float, cost_s: float, *, is_stale: bool, is_wanted: bool) -> bool:
    """Return whether a volume is to be measured again.

    Args:
        age_s: Seconds since the last measurement.
        cost_s: Seconds that it took.
        is_stale: Something changed since it began.
        is_wanted: A model waits for room.
    """
    if is_wanted and is_stale:
        least_s, times = _WANTED
    else:
        least_s, times = _STALE if is_wanted or is_stale else _AT_REST
    return age_s >= max(least_s, times * cost_s)


def shortage(needed: int, room: int, limits: Limits) -> str:
    """Return the message for too little space."""
    told = f"needs {format_bytes(needed)}, {format_bytes(max(room, 0))} free"
    if not limits.volume_limit:
        return told
    return f"{told} (the volume is limited to {format_bytes(limits.volume_limit)})"


def fits_now(failure: Failure, available: int | None, now: float) -> bool:
    """Return whether a model that did not fit would fit by now."""
    return (
        failure.needs_bytes is not None
        and available is not None
        and available >= failure.needs_bytes
        and now >= failure.failed_at + _RETRY_S
    )


def kept_trees(name: str, disk: DiskModel, wanted: str | None) -> Iterator[Kept]:
    """Yield the trees of a name that may be evicted: not wanted, not loaded.

    During an update no tree in the served folder is evicted either: it may be in use.
    """
    is_settled = wanted is not None and disk.loaded == wanted
    for revision, tree in disk.trees.items():
        if revision in {wanted, disk.loaded}:
            continue
        if revision in disk.published and not is_settled:
            continue
        yield Kept(tree.retired, name, revision, tree.size)


def surplus(kept: list[Kept], limits: Limits) -> list[Kept]:
    """Return the trees kept for rollbacks that exceed the limits of number or size."""
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


def removed_bytes(action: Remove, disk: DiskModel) -> int:
    """Return the bytes that a removal frees. The size of staged leftovers is unknown."""
    if action.is_staging:
        return 0
    gone = disk.trees.keys() if action.versions is None else action.versions
    return sum(disk.trees[revision].size for revision in gone if revision in disk.trees)


class Freeing:
    """Counts the bytes that removals free, from their beginning until the free space shows them.

    A look at the free space before the end of a removal shows an unknown part of them. A tree with
    linked files frees less than is counted here. The first look after the removal corrects that.

    Attributes:
        bytes: The sum.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._under_way: dict[str, int] = {}
        self._ended: deque[tuple[Instant, int]] = deque()

    def begin(self, name: str, size: int) -> None:
        """Count a removal; of one name there is one at a time."""
        self.bytes += size
        self._under_way[name] = size

    def end(self, name: str, now: Instant) -> None:
        """Note that a removal has ended, well or not."""
        self._ended.append((now, self._under_way.pop(name, 0)))

    def look(self, disk_at: Instant, account_at: Instant) -> None:
        """Drop removals that the free space shows.

        Args:
            disk_at: When the look at the disk began that `free_bytes` is of.
            account_at: When the last measurement of a limited volume began.
        """
        shown = min(disk_at - _FREED_S, account_at)
        while self._ended and self._ended[0][0] < shown:
            self.bytes -= self._ended.popleft()[1]


def missing_bytes(failure: Failure, available: int | None, freeing: int) -> int:
    """Return the bytes that a model lacks, beside those that removals are freeing."""
    if failure.needs_bytes is None or available is None:
        return 0
    return max(failure.needs_bytes - available - freeing, 0)


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
        """Admit a model, or return the message of its refusal."""
        if not self._limit:
            return None
        need = wanted.entry.memory or 0
        more = need - self._held(wanted.entry.name, wanted)
        if more <= 0:
            return None
        if self._used + more > self._limit:
            left = max(self._limit - self._used, 0)
            return f"needs {format_bytes(need)}, {format_part(left, self._limit)} left"
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
