"""Forcing small trees to the disk, many at a time.

With a thousand small models, a sync for each file and folder is most of the work: the file system
writes the same blocks of its own again and again, and all wait for each other (20 ms a model were
measured, of which 3 ms were work). So trees that are ready while an earlier sync runs wait for the
next one, and that is one for all: `syncfs`, which flushes the whole file system. As that may be
shared with busy neighbours, it is used only where it replaces many single syncs.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from trainedmodel_puller.durable import sync_tree, volume_fault

#: From so many trees on, the whole file system is flushed instead of each file of theirs.
_MANY: Final = 6
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class GroupSync:
    """Syncs trees; `run` does the work."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[tuple[Path, asyncio.Future[None]]] = []
        self._has_work = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")

    async def sync(self, tree: Path) -> None:
        """Return once all of a tree is on the disk.

        Raises:
            VolumeFault: the volume refused.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((tree, done))
        self._has_work.set()
        await done

    async def run(self) -> None:
        """Sync what waits, round after round, for ever."""
        try:
            while True:
                await self._has_work.wait()
                self._has_work.clear()
                batch, self._waiting = self._waiting, []
                trees = [tree for tree, done in batch if not done.done()]
                errors = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._sync, trees
                )
                for tree, done in batch:
                    if done.done():
                        continue  # its download was cancelled
                    error = errors.get(tree)
                    if error is None:
                        done.set_result(None)
                    else:
                        done.set_exception(volume_fault(error))
        finally:
            self._thread.shutdown(wait=False)
            for _, done in self._waiting:
                done.cancel()

    def _sync(self, trees: list[Path]) -> dict[Path, OSError]:
        try:
            if len(trees) >= _MANY:
                _sync_file_system(self._folder)
                return {}
        except OSError as error:
            return dict.fromkeys(trees, error)
        errors = {}
        for tree in trees:
            try:
                sync_tree(tree, with_files=True)
            except OSError as error:
                errors[tree] = error
        return errors


def _sync_file_system(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(descriptor)
