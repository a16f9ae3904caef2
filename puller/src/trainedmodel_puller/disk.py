"""The volume as the event loop sees it: operations in threads, one of a name at a time.

Downloads and loads of one name may run side by side, and each ends with a look at what the volume
now holds. Without an order between them an old look could be noted after a new one, or a look
could see the middle of a swap. So each operation holds the name's lock, and its look is made in the
same turn of the same thread: with thousands of models, going to threads is what costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, TypeVar, cast

from trainedmodel_puller.core.state import DiskModel
from trainedmodel_puller.sealing import SealLane
from trainedmodel_puller.state import LiveState
from trainedmodel_puller.volume import Volume

#: Each mostly waits, for the disk or for the interpreter; more of them wait for each other.
_THREADS: Final = 8

P = ParamSpec("P")
T = TypeVar("T")


class Disk:
    """Runs operations of the volume, and keeps `LiveState.disk` true."""

    def __init__(self, volume: Volume, state: LiveState) -> None:
        self.volume = volume
        self._state = state
        self._locks: dict[str, asyncio.Lock] = {}
        self._lane = SealLane(volume.state_dir)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="disk")

    async def run(
        self, name: str, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run an operation of one name in a thread, then note what there is.

        Raises:
            VolumeFault: what the operation raises.
        """
        return await self._run(name, partial(operation, *args, **kwargs), self.volume.scan_one)

    async def run_unseen(
        self, name: str, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run an operation that moves no tree, or whose outcome its caller notes.

        Raises:
            VolumeFault: what the operation raises.
        """
        return await self._run(name, partial(operation, *args, **kwargs), None)

    async def seal_small(
        self, name: str, write: Callable[[], Path | None], seal: Callable[[], bool]
    ) -> bool | None:
        """Write and seal a small tree, together with those of other names; see `sealing`.

        Raises:
            ModelFault: what either raises, or the sync between them.
        """
        async with self._lock(name):
            return await self._lane.run(write, seal)

    async def write_small(self, name: str, write: Callable[[], None]) -> None:
        """Write something small that need not be forced to the disk, together with others.

        Raises:
            ModelFault: what `write` raises.
        """
        async with self._lock(name):
            await self._lane.run(write, _never)

    async def _run(
        self, name: str, call: Callable[[], T], look: Callable[[str], DiskModel] | None
    ) -> T:
        def do() -> tuple[T | None, Exception | None, DiskModel | None]:
            result, error = None, None
            try:
                result = call()
            except Exception as raised:
                error = raised
            return result, error, None if look is None else look(name)

        async with self._lock(name):
            work = asyncio.get_running_loop().run_in_executor(self._threads, do)
            try:
                result, error, found = await asyncio.shield(work)
            except asyncio.CancelledError:
                # a thread cannot be cancelled: its end is waited for
                _, _, found = await _finished(work)
                self._note(name, found)
                raise
            self._note(name, found)
            if error is not None:
                raise error
            return cast("T", result)

    def _note(self, name: str, found: DiskModel | None) -> None:
        if found is not None:
            self._state.set_disk(name, found)

    async def look(self, name: str) -> DiskModel:
        """Look at one name and note what there is."""
        await self.run(name, _nothing)
        return self._state.disk.get(name, DiskModel())

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False)
        self._lane.close()

    def _lock(self, name: str) -> asyncio.Lock:
        if name not in self._state.disk and name not in self._state.desired.models:
            self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(name, asyncio.Lock())


def _never() -> bool:
    """Seal what is not there: never called."""
    raise AssertionError("there is no tree to seal")


def _nothing() -> None:
    """Do nothing: the look that follows is what is wanted."""


async def _finished(work: asyncio.Future[T]) -> T:
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            continue
    return work.result()
