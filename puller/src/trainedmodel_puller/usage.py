"""How much of a limited volume is used: measured now and then, and counted in between.

A kubelet evicts a pod whose emptyDir holds more than its `sizeLimit`. It counts every allocated
block in the volume, whoever wrote it. The file system knows nothing of that limit: it is the
node's, and tells how much room the node has. So the puller keeps its own account:

- It measures: it walks the volume and adds up allocated blocks, as the kubelet does, each inode
  once. When that is due is decided in `core.room`; it is never done for each pass.
- Between two measurements it adds what it writes itself, as it comes in. What is deleted is
  subtracted by the next measurement only.

What others write (a server's caches, an init container) is seen at the next measurement.
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

log: Final = structlog.get_logger()

#: How often it is decided whether a measurement is due, in seconds.
_PERIOD_S: Final = 0.25
_BLOCK_BYTES: Final = 512


class VolumeUsage:
    """The account of one volume.

    Args:
        limit: Bytes that the volume may hold; 0: no limit, and nothing is counted or measured.
        folders: What counts against it.
    """

    def __init__(self, limit: int = 0, folders: Iterable[Path] = ()) -> None:
        self.limit = limit
        self._folders = tuple(folders)
        self._measured: int | None = None
        self._written = 0
        self._is_stale = False
        self._measured_at = float("-inf")
        self._cost_s = 0.0
        self._unread: frozenset[str] = frozenset()

    @property
    def used(self) -> int | None:
        """Bytes in use, or a few more; None before the first measurement."""
        return None if self._measured is None else self._measured + self._written

    def free_bytes(self, of_disk: int | None) -> int | None:
        """Return what may be written, by the limit and by the file system."""
        return free_within(of_disk, self.limit, self.used)

    def note_written(self, count: int) -> None:
        """Count what is about to be in the volume."""
        if self.limit:
            self._written += count
            self._is_stale = True

    def touch(self) -> None:
        """Note that something in the volume changed."""
        self._is_stale = True

    async def measure(self) -> None:
        """Measure now, in a thread. A root that cannot be read leaves the account as it was."""
        before, began = self._written, time.monotonic()
        self._is_stale = False
        measured, unread = await asyncio.to_thread(allocated_bytes, self._folders)
        if unread.isdisjoint(map(os.fspath, self._folders)):
            # What was noted meanwhile may be counted twice. What was noted before, and was still
            # on its way to the disk or between two folders, is missed until the next measurement:
            # a few files, for which there is a margin below the limit.
            self._measured = measured
            self._written -= before
        self._measured_at = time.monotonic()
        self._cost_s = self._measured_at - began
        if unread - self._unread:
            log.warning("volume_not_measured_whole", unreadable=sorted(unread)[:5])
        self._unread = unread

    async def run(self, is_wanted: Callable[[], bool], bell: asyncio.Event) -> None:
        """Measure whenever that is due, until cancelled.

        Args:
            is_wanted: Tells whether a model waits for room.
            bell: Rung after a measurement that somebody waited for.
        """
        while True:
            await asyncio.sleep(_PERIOD_S)
            age_s, wanted = time.monotonic() - self._measured_at, is_wanted()
            if is_measurement_due(age_s, self._cost_s, is_stale=self._is_stale, is_wanted=wanted):
                await self.measure()
                if wanted:
                    bell.set()


def allocated_bytes(folders: Iterable[Path]) -> tuple[int, frozenset[str]]:
    """Add up the blocks of all that lies in the folders, each inode once; blocks.

    Returns:
        The bytes, and the paths of folders that could not be read.
    """
    total = 0
    unread: set[str] = set()
    seen: set[tuple[int, int]] = set()
    pending = [os.fspath(folder) for folder in folders]
    while pending:
        folder = pending.pop()
        try:
            total += os.lstat(folder).st_blocks * _BLOCK_BYTES
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += _blocks(entry, seen)
        except FileNotFoundError:
            continue  # deleted meanwhile
        except OSError:
            unread.add(folder)
    return total, frozenset(unread)


def _blocks(entry: os.DirEntry[str], seen: set[tuple[int, int]]) -> int:
    """Return the bytes that a file takes; nothing if one of its other names was counted."""
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return 0
    if status.st_nlink > 1:
        inode = (status.st_dev, status.st_ino)
        if inode in seen:
            return 0
        seen.add(inode)
    return status.st_blocks * _BLOCK_BYTES
