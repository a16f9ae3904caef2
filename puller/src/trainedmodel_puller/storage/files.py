"""Writing fetched bytes: threads for every system call, bounded buffers, faults of the volume.

All writing goes through one small pool for all models: the event loop never waits for a disk (P8),
and at most the threads of the pool do. If a task is cancelled, its running job is waited for before
the cancellation proceeds, so nothing writes to a folder after its fetch has ended.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from typing_extensions import Buffer

from trainedmodel_puller.errors import ModelFault
from trainedmodel_puller.volume.durable import FILE_MODE, translate_os_errors, volume_fault

T = TypeVar("T")
P = ParamSpec("P")

MAX_BATCH_BYTES: Final = 1024 * 1024
#: Python has no name for it; a call through ctypes lets other threads run meanwhile.
_SYNC_FILE_RANGE: Final = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _SYNC_FILE_RANGE is not None:
    _SYNC_FILE_RANGE.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_SYNC_FILE_RANGE_WRITE: Final = 2
#: The kernel takes at most 1,024 buffers in one call.
_BATCH_BUFFERS: Final = 512


class FilePool:
    """Runs blocking file work in a few threads."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="volume")

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Start a job; its OSErrors come out as VolumeFaults."""
        job = partial(_as_volume_fault, partial(call, *args, **kwargs))
        return asyncio.get_running_loop().run_in_executor(self._threads, job)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a job and wait for its end, even if cancelled meanwhile."""
        return await finished(self.submit(call, *args, **kwargs))

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False)


async def finished(job: asyncio.Future[T]) -> T:
    """Wait for a job; a cancellation is passed on only after the job has ended."""
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await settled(job)
        raise


async def settled(job: asyncio.Future[T]) -> None:
    """Wait for a job whatever comes; its result or error is dropped."""
    while not job.done():
        try:
            await asyncio.wait([job])
        except asyncio.CancelledError:
            continue
    if not job.cancelled():
        job.exception()


def first_fault(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Pick what to report of several streams' errors: a known fault rather than a surprise."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending += error.exceptions
        else:
            leaves.append(error)
    surprises = [leaf for leaf in leaves if not isinstance(leaf, ModelFault)]
    return surprises[0] if surprises else leaves[0]


class SpanWriter:
    """Writes one stream's chunks to one file from an offset on.

    While one batch is being written the next is gathered, and no more: that bounds the memory of
    a stream to two batches. Call `finish` at the end, `abandon` instead if anything failed. If the
    file is to be durable, the disk works while the stream still comes in.
    """

    def __init__(
        self,
        pool: FilePool,
        path: Path,
        offset: int,
        written: Callable[[int], None],
        *,
        is_new: bool,
        batch_bytes: int = MAX_BATCH_BYTES,
        is_durable: bool = False,
    ) -> None:
        self._pool = pool
        self._path = path
        self._offset = offset
        self._written = written
        self._is_new = is_new
        self._is_durable = is_durable
        self._batch_limit = batch_bytes
        self._fd: int | None = None
        self._batch: list[Buffer] = []
        self._batch_bytes = 0
        self._job: asyncio.Future[int] | None = None

    async def write(self, chunk: Buffer, size: int) -> None:
        """Take a chunk; waits if the batch before the last is not on the volume yet."""
        self._batch.append(chunk)
        self._batch_bytes += size
        if self._batch_bytes >= self._batch_limit or len(self._batch) >= _BATCH_BUFFERS:
            await self._await_job()
            self._start_job()

    async def finish(self) -> None:
        """Write what is left, close."""
        await self._await_job()
        self._start_job(is_last=True)
        await self._await_job()

    async def abandon(self) -> None:
        """Close after a failure; what was written stays."""
        if self._job is not None:
            await settled(self._job)
            self._job = None
        if self._fd is not None:
            fd, self._fd = self._fd, None
            await settled(self._pool.submit(os.close, fd))

    def _start_job(self, *, is_last: bool = False) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        self._job = self._pool.submit(self._write, batch, is_last=is_last)
        # Counted when it is written, not when the next batch comes: a stream may be slow.
        self._job.add_done_callback(self._count)

    def _count(self, job: asyncio.Future[int]) -> None:
        if not job.cancelled() and job.exception() is None:
            self._written(job.result())

    async def _await_job(self) -> None:
        if self._job is None:
            return
        await finished(self._job)
        self._job = None

    def _write(self, batch: Sequence[Buffer], *, is_last: bool) -> int:
        if self._fd is None:
            if self._is_new:
                self._fd = open_new(self._path)
                os.fchmod(self._fd, FILE_MODE)  # the umask of the process is not ours to trust
            else:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        count = write_all(self._fd, batch, self._offset)
        if self._is_durable and count:
            start_writeback(self._fd, self._offset, count)
        self._offset += count
        if is_last:
            fd, self._fd = self._fd, None
            os.close(fd)
        return count


def open_new(path: Path | str) -> int:
    """Open a file that is new, for writing; blocks.

    What stands under the name is unlinked, never written into: it may have other names.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, FILE_MODE)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, flags, FILE_MODE)


def start_writeback(fd: int, offset: int, size: int) -> None:
    """Let the kernel start to write a range to the disk; 0 bytes mean up to the end.

    A sync that follows later then finds most of its work done. Where the file system or the C
    library knows no such call, nothing happens: the sync is what counts.
    """
    if _SYNC_FILE_RANGE is not None:
        _SYNC_FILE_RANGE(fd, offset, size, _SYNC_FILE_RANGE_WRITE)


def write_all(fd: int, buffers: Sequence[Buffer], offset: int) -> int:
    """Write all buffers one after the other from an offset on, and return how many bytes."""
    left = [memoryview(buffer).cast("B") for buffer in buffers]
    start = offset
    while left:
        count = os.pwritev(fd, left, offset)
        offset += count
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if left and count:
            left[0] = left[0][count:]
    return offset - start


def _as_volume_fault(call: Callable[[], T]) -> T:
    try:
        return call()
    except OSError as error:
        raise volume_fault(error) from error


def write_tree(
    folder: Path, content: Mapping[str, Sequence[Buffer]], folders: Iterable[str] = ()
) -> dict[str, tuple[int, int, int]]:
    """Make the files of a new folder, with the folders that they need; nothing is synced.

    Args:
        folder: It is there, and empty.
        content: Of each file, by path.
        folders: To be made beside those that files lie in.

    Returns:
        Inode, modification time in ns and size of each file, by path (as
        `volume.tree_links.stat_files`).

    Raises:
        VolumeFault: the volume refused.
    """
    found = {}
    made = {""}
    with translate_os_errors():
        for path, chunks in content.items():
            target = os.path.join(folder, path)
            parent = path.rpartition("/")[0]
            if parent not in made:
                os.makedirs(os.path.join(folder, parent), exist_ok=True)
                made.add(parent)
            fd = open_new(target)
            try:
                write_all(fd, chunks, 0)
                status = os.fstat(fd)
            finally:
                os.close(fd)
            found[path] = (status.st_ino, status.st_mtime_ns, status.st_size)
        for path in folders:
            os.makedirs(os.path.join(folder, path), exist_ok=True)
    return found
