"""The volume as the event loop sees it: operations in threads, one of a name at a time.

Downloads and loads of one name may run side by side, and each ends with a look at what the volume
now holds. Without an order between them an old look could be noted after a new one, or a look
could see the middle of a swap. So each operation, and each look with its note, holds the name's
lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from trainedmodel_puller.core.state import DiskModel
from trainedmodel_puller.state import LiveState
from trainedmodel_puller.volume import Volume

P = ParamSpec("P")
T = TypeVar("T")


class Disk:
    """Runs operations of the volume, and keeps `LiveState.disk` true."""

    def __init__(self, volume: Volume, state: LiveState) -> None:
        self.volume = volume
        self._state = state
        self._locks: dict[str, asyncio.Lock] = {}

    async def run(
        self, name: str, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run an operation of one name in a thread, then note what there is.

        Raises:
            VolumeFault: what the operation raises.
        """
        async with self._lock(name):
            work = asyncio.create_task(asyncio.to_thread(operation, *args, **kwargs))
            try:
                return await asyncio.shield(work)
            finally:
                await asyncio.wait({work})  # a thread cannot be cancelled: its end is waited for
                self._note(name, await asyncio.to_thread(self.volume.scan_one, name))

    async def look(self, name: str) -> DiskModel:
        """Look at one name and note what there is."""
        async with self._lock(name):
            found = await asyncio.to_thread(self.volume.scan_one, name)
            self._note(name, found)
        return found

    def _note(self, name: str, found: DiskModel) -> None:
        self._state.set_disk(name, found)

    def _lock(self, name: str) -> asyncio.Lock:
        if name not in self._state.disk and name not in self._state.desired.models:
            self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(name, asyncio.Lock())
