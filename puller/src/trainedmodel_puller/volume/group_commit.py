"""Group commit of small models: many are written, forced to the disk and committed together.

With a thousand small models, a thread call for each step and a sync for each file would be most of
the work: threads wait for the interpreter, and syncs write the file system's own blocks again and
again (20 ms for each model were measured, of which 3 were work). So models that get ready during a
batch form the next batch. Two threads share a batch: one writes all its trees, the other forces
them to the disk with one sync and commits them, while the first writes the next batch. For more
than a few trees that sync is `syncfs`, which flushes the whole file system. Busy neighbours may
share the file system, so `syncfs` is used only where it replaces many syncs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainedmodel_puller.volume.durable import sync_file_system, sync_tree

#: From this number of trees on, the whole file system is flushed instead of each of their files.
_MANY: Final = 6


@dataclass(slots=True)
class _Job:
    write: Callable[[], Path | None]
    commit: Callable[[Path], bool] | None
    done: asyncio.Future[bool | None]
    tree: Path | None = None
    error: Exception | None = None
    is_published: bool | None = None


class _Stage:
    """One thread and its waiting jobs, all of which are its next batch."""

    def __init__(
        self,
        name: str,
        job: Callable[[list[_Job]], None],
        pass_on: Callable[[list[_Job]], None],
    ) -> None:
        self._work = job
        self._pass_on = pass_on
        self._waiting: list[_Job] = []
        self._is_busy = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    def add(self, jobs: list[_Job]) -> None:
        self._waiting += jobs
        if self._waiting and not self._is_busy:
            self._is_busy = True
            batch, self._waiting = self._waiting, []
            done = asyncio.get_running_loop().run_in_executor(self._thread, self._work, batch)
            done.add_done_callback(lambda _: self._end(batch))

    def _end(self, batch: list[_Job]) -> None:
        self._is_busy = False
        self.add([])
        self._pass_on(batch)

    def close(self) -> None:
        self._thread.shutdown(wait=False)


class GroupCommit:
    """Two threads: while one forces a batch to the disk, the other writes the next."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writing = _Stage("write", _write, self._written)
        self._committing = _Stage("commit", self._commit, _end)

    async def run(
        self, write: Callable[[], Path | None], commit: Callable[[Path], bool] | None = None
    ) -> bool | None:
        """Write a tree, force it to the disk, commit it; runs to its end, even if cancelled.

        Args:
            write: Blocks; returns the tree, or None if there is nothing to commit.
            commit: Blocks; called once the tree is on the disk.

        Returns:
            The result of `commit`, or None if there was nothing to commit.

        Raises:
            ModelFault: `write` or `commit` raised it.
            OSError: `write`, the sync or `commit` raised it.
        """
        done: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self._writing.add([_Job(write, commit, done)])
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            while not done.done():
                try:
                    await asyncio.wait({done})
                except asyncio.CancelledError:
                    continue
            if not done.cancelled():
                done.exception()
            raise

    def close(self) -> None:
        """End the threads."""
        self._writing.close()
        self._committing.close()

    def _written(self, batch: list[_Job]) -> None:
        _end([job for job in batch if job.tree is None])
        self._committing.add([job for job in batch if job.tree is not None])

    def _commit(self, batch: list[_Job]) -> None:
        self._sync(batch)
        for job in batch:
            if job.error is None and job.tree is not None and job.commit is not None:
                try:
                    job.is_published = job.commit(job.tree)
                except Exception as error:
                    job.error = error

    def _sync(self, jobs: list[_Job]) -> None:
        if len(jobs) >= _MANY:
            try:
                sync_file_system(self._folder)
            except OSError as error:
                for job in jobs:
                    job.error = OSError(error.errno, error.strerror, error.filename)
            return
        for job in jobs:
            try:
                if job.tree is not None:
                    sync_tree(job.tree, with_files=True)
            except OSError as error:
                job.error = error


def _write(batch: list[_Job]) -> None:
    for job in batch:
        try:
            job.tree = job.write()
        except Exception as error:
            job.error = error


def _end(batch: list[_Job]) -> None:
    for job in batch:
        if job.error is not None:
            job.done.set_exception(job.error)
        else:
            job.done.set_result(job.is_published)
