"""The volume for the event loop: operations run in threads, one at a time for each name.

Downloads and loads of one name may run at the same time, and each ends with a scan of the name's
files. Without an order between them, an old scan could be recorded after a new one, or a scan could
see the middle of a swap. So each operation holds the name's lock, and its scan runs in the same
thread call: with thousands of models, thread calls are the main cost.

This is the one place where errors of the volume become faults: the modules below raise OSError, and
callers on the event loop get VolumeFault from each method. A failed scan does not fail the
operation before it: the name is in doubt, and scanned again (`loop`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast

import structlog

from trainedmodel_puller.core.state import DiskModel
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.volume.durable import translate_os_errors, words_of
from trainedmodel_puller.volume.group_commit import GroupCommit
from trainedmodel_puller.volume.volume import Volume

#: Each mostly waits for the disk or for the interpreter; more threads would wait for each other.
_THREADS: Final = 8

P = ParamSpec("P")
T = TypeVar("T")
log: Final = structlog.get_logger()


@dataclass(slots=True)
class _Outcome:
    """The results of an operation and of the scan after it."""

    result: Any = None
    error: Exception | None = None
    found: DiskModel | None = None
    doubt: str | None = None


class AsyncVolume:
    """Runs operations of the volume, and keeps `LiveState.disk` up to date."""

    def __init__(self, volume: Volume, state: LiveState) -> None:
        self.volume = volume
        self._state = state
        self._locks: dict[str, asyncio.Lock] = {}
        self._batches = GroupCommit(volume.state_dir)
        self._sweep: Future[None] | None = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="disk")

    async def run(
        self, name: str, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run an operation of one name in a thread, then scan the name and record its files."""
        return await self._run(name, partial(operation, *args, **kwargs), self.volume.scan_one)

    async def run_unseen(
        self, name: str, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run an operation that moves no tree, or whose outcome the caller records."""
        return await self._run(name, partial(operation, *args, **kwargs), None)

    async def ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call in a thread that needs no lock of a name."""
        return await self.ask_in(None, partial(call, *args, **kwargs))

    async def ask_in(self, thread: Executor | None, call: Callable[[], T]) -> T:
        """Do as `ask` in a thread of the caller's."""
        with translate_os_errors():
            return await asyncio.get_running_loop().run_in_executor(thread, call)

    async def run_batched(
        self,
        name: str,
        write: Callable[[], Path | None],
        commit: Callable[[Path], bool] | None = None,
    ) -> bool | None:
        """Write something small together with other names; see `GroupCommit.run`.

        A tree that `write` returns is forced to the disk and committed.
        """
        async with self._lock(name):
            with translate_os_errors():
                return await self._batches.run(write, commit)

    async def _run(
        self, name: str, call: Callable[[], T], look: Callable[[str], DiskModel] | None
    ) -> T:
        async with self._lock(name):
            job = asyncio.get_running_loop().run_in_executor(self._threads, _do, name, call, look)
            try:
                outcome = await asyncio.shield(job)
            except asyncio.CancelledError:
                # a thread cannot be cancelled, so wait for its end
                self._note(name, await _finished(job))
                raise
            self._note(name, outcome)
            with translate_os_errors():
                if outcome.error is not None:
                    raise outcome.error
            return cast("T", outcome.result)

    def _note(self, name: str, outcome: _Outcome) -> None:
        if outcome.doubt is not None:
            before = self._state.disk.get(name)
            if before is None or before.doubt != outcome.doubt:
                log.warning("files_in_doubt", model=name, error=outcome.doubt)
            self._state.doubt_disk(name, outcome.doubt)
        elif outcome.found is not None:
            self._state.set_disk(name, outcome.found)

    async def look(self, name: str) -> DiskModel:
        """Scan one name and record its files; never fails, but may leave the name in doubt."""
        await self.run(name, _nothing)
        return self._state.disk.get(name, DiskModel())

    def retry_trash(self) -> None:
        """Start another deletion of the trash in a thread; returns at once."""
        if self._sweep is None or self._sweep.done():
            self._sweep = self._threads.submit(self.volume.trash.empty)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False)
        self._batches.close()

    def _lock(self, name: str) -> asyncio.Lock:
        if name not in self._state.disk and name not in self._state.desired.models:
            self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(name, asyncio.Lock())


def _do(name: str, call: Callable[[], Any], look: Callable[[str], DiskModel] | None) -> _Outcome:
    outcome = _Outcome()
    try:
        outcome.result = call()
    except Exception as raised:
        outcome.error = raised
    if look is not None:
        try:
            outcome.found = look(name)
        except OSError as raised:
            outcome.doubt = words_of(raised)
    return outcome


def _nothing() -> None:
    """Do nothing; the caller only needs the scan that follows."""


async def _finished(job: asyncio.Future[T]) -> T:
    while not job.done():
        try:
            await asyncio.wait({job})
        except asyncio.CancelledError:
            continue
    return job.result()
