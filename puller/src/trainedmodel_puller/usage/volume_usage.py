"""The used bytes of a limited volume: measured from time to time, and counted in between.

A kubelet evicts a pod whose emptyDir holds more than its `sizeLimit`. It counts all allocated
blocks in the volume, of all writers. The file system does not know that limit: it is the node's,
and reports the free space of the node. So the puller keeps its own account:

- It measures: it walks the volume and adds up allocated blocks, as the kubelet does, each inode
  once. `core.room` decides when that is due; it is not done in each pass.
- Between two measurements it adds what it writes itself. What is deleted is subtracted by the next
  measurement only.

A measurement replaces what was added before it began, so only what is on the volume by then may be
replaced. Bytes that are not written yet (in memory, or granted to an unpacking) are held under the
name of their model, beside the sum. They count in full until the model's transfer reports them
written. The next measurement then replaces them. A fixed delay would be a guess: a small model
waits for its batch as long as the disk takes.

If the account is not exact, it is too high: bytes that were written during a measurement, or are
held and partly written, may be counted twice until the next one.

The next measurement finds files of other writers (a server's caches, an init container).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog

from trainedmodel_puller.core.room import free_within, is_measurement_due
from trainedmodel_puller.usage.allocation import allocated_bytes

log: Final = structlog.get_logger()

#: How often it is decided whether a measurement is due, in seconds.
_PERIOD_S: Final = 0.25


class VolumeUsage:
    """The account of one volume.

    Args:
        limit: Bytes that the volume may hold; 0: no limit, and nothing is counted or measured.
        folders: Folders that count against it.

    Attributes:
        seen_at: When the last successful measurement began. It shows all earlier deletions.
    """

    def __init__(self, limit: int = 0, folders: Iterable[Path] = ()) -> None:
        self.limit = limit
        self._folders = tuple(folders)
        self._measured: int | None = None
        self._written = 0
        self._held: dict[str, int] = {}
        self._held_bytes = 0
        self.seen_at = float("-inf") if limit else float("inf")
        self._is_stale = False
        self._measured_at = float("-inf")
        self._cost_s = 0.0
        self._unread: frozenset[str] = frozenset()

    @property
    def used(self) -> int | None:
        """Bytes in use, or a few more; None before the first measurement."""
        if self._measured is None:
            return None
        return self._measured + self._written + self._held_bytes

    def free_bytes(self, of_disk: int | None) -> int | None:
        """Return what may be written, by the limit and by the file system."""
        return free_within(of_disk, self.limit, self.used)

    def note_written(self, count: int) -> None:
        """Count bytes that are in the volume now."""
        if self.limit:
            self._written += count
            self._is_stale = True

    def hold(self, name: str, count: int) -> None:
        """Count bytes that will be written for a model. No measurement replaces them."""
        if self.limit and count:
            self._held[name] = self._held.get(name, 0) + count
            self._held_bytes += count
            self._is_stale = True

    def settle(self, name: str, but: int = 0) -> None:
        """Note that the held bytes of a model are in the volume now, except for the last `but`."""
        held = self._held.pop(name, 0)
        still = min(but, held)
        if still:
            self._held[name] = still
        if held > still:
            self._held_bytes -= held - still
            self.note_written(held - still)

    def touch(self) -> None:
        """Note that something in the volume changed."""
        self._is_stale = True

    async def measure(self) -> None:
        """Measure now, in a thread. A root that cannot be read leaves the account as it was."""
        before, began = self._written, time.monotonic()
        self._is_stale = False
        measured, unread = await asyncio.to_thread(allocated_bytes, self._folders)
        if unread.isdisjoint(map(os.fspath, self._folders)):
            self._measured = measured
            self._written -= before
            self.seen_at = began
        self._measured_at = time.monotonic()
        self._cost_s = self._measured_at - began
        if unread - self._unread:
            log.warning("volume_partly_measured", unreadable=sorted(unread)[:5])
        self._unread = unread

    async def run(self, is_wanted: Callable[[], bool], wake: asyncio.Event) -> None:
        """Measure whenever that is due, until cancelled.

        Args:
            is_wanted: Tells whether a model waits for room.
            wake: Set after a measurement that a model waited for.
        """
        while True:
            await asyncio.sleep(_PERIOD_S)
            age_s, wanted = time.monotonic() - self._measured_at, is_wanted()
            if is_measurement_due(age_s, self._cost_s, is_stale=self._is_stale, is_wanted=wanted):
                await self.measure()
                if wanted:
                    wake.set()
