"""Writing many small whole files, several in a job.

An object of a few kilobytes costs less to receive than to pass to a thread: with a job for each,
half the time of 500 objects went into waking threads. Here finished objects gather while earlier
ones are written, and go to a thread together: the busier the volume, the larger the batches. The
first is written at once, so a slow source causes no wait.

Each file is new: an existing file of its name is unlinked, never written into, because it may be a
hard link to another model's file (`hardlinks`). The disk starts on each file at once; the caller
waits for all of them at the end (`resume.sync_files`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from typing_extensions import Buffer

from trainedmodel_puller.storage.files import (
    MAX_BATCH_BYTES,
    FilePool,
    open_new,
    settled,
    start_writeback,
    write_all,
)
from trainedmodel_puller.volume.durable import FILE_MODE

#: Objects of up to this size are received whole and written in batches.
SMALL_BYTES: Final = 256 * 1024
_BATCH_FILES: Final = 32


@dataclass(frozen=True, slots=True)
class SmallFile:
    """One file, all of it.

    Attributes:
        written: Called in the event loop once the file is written; it need not be on the disk yet.
    """

    path: str
    chunks: Sequence[Buffer]
    size: int
    written: Callable[[], None]


class SmallFileWriter:
    """Writes the small files of one fetch; call `finish` at the end, or `abandon` after a failure.

    Holds at most one batch more than it has jobs, a batch being 32 files or about a megabyte.
    """

    def __init__(self, pool: FilePool, max_jobs: int, *, is_durable: bool) -> None:
        self._pool = pool
        self._max_jobs = max_jobs
        self._is_durable = is_durable
        self._batch: list[SmallFile] = []
        self._batch_bytes = 0
        self._jobs: set[asyncio.Future[None]] = set()
        self._error: BaseException | None = None
        self._is_open = True

    async def add(self, file: SmallFile) -> None:
        """Take a file; waits while the batch is full and all jobs are busy.

        Raises:
            VolumeFault: this or an earlier file could not be written.
        """
        while self._is_full and len(self._jobs) >= self._max_jobs:
            await asyncio.wait(self._jobs, return_when=asyncio.FIRST_COMPLETED)
        if self._error is not None:
            raise self._error
        self._batch.append(file)
        self._batch_bytes += file.size
        self._start()

    async def finish(self) -> None:
        """Write what is left.

        Raises:
            VolumeFault: a file could not be written.
        """
        while self._jobs or self._batch:
            self._start()
            await asyncio.wait(self._jobs)
        if self._error is not None:
            raise self._error

    async def abandon(self) -> None:
        """Drop what has not been started, and see the rest through."""
        self._is_open = False
        self._batch.clear()
        for job in list(self._jobs):
            await settled(job)

    @property
    def _is_full(self) -> bool:
        return len(self._batch) >= _BATCH_FILES or self._batch_bytes >= MAX_BATCH_BYTES

    def _start(self) -> None:
        is_due = not self._jobs or (self._is_full and len(self._jobs) < self._max_jobs)
        if not (self._batch and is_due and self._is_open):
            return
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        job = self._pool.submit(_write_batch, batch, is_durable=self._is_durable)
        self._jobs.add(job)
        job.add_done_callback(lambda done: self._ended(done, batch))

    def _ended(self, job: asyncio.Future[None], batch: Sequence[SmallFile]) -> None:
        self._jobs.discard(job)
        error = None if job.cancelled() else job.exception()
        if error is not None:
            self._error = self._error or error
            return
        if not job.cancelled():
            for file in batch:
                file.written()
        self._start()


def _write_batch(batch: Sequence[SmallFile], *, is_durable: bool) -> None:
    for file in batch:
        fd = open_new(file.path)
        try:
            os.fchmod(fd, FILE_MODE)  # the umask of the process is not ours to trust
            write_all(fd, file.chunks, 0)
            if is_durable:
                start_writeback(fd, 0, 0)
        finally:
            os.close(fd)
