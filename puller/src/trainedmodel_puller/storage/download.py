"""Fetching the objects of a listing into a folder, resumable, within the limits of the process.

An object of up to two parts is one stream. A larger one is cut into spans of several parts that
are read at once, each as one request, into a file that has its final size from the start: real
stores give a single connection 50 to 100 MB/s. Within a span each part counts for itself, so a
kill costs at most one part a stream.

Every stream holds one slot of a limiter shared by all models while it reads (P12), and at most two
batches of a megabyte (P11). A stream without a byte for `stall_timeout_s` is at fault (a listing
is watched by its back end). A fault in one stream ends the fetch: what is there stays for the next
one, when and whether is the planner's business.

The listing is a promise, and a store may break it: every stream is counted, more bytes or fewer
are a fault, and a changed object is found by the back ends' conditions.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri

from trainedmodel_puller.durable import sync_path
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.base import UNKNOWN_SIZE, Listing, SourceObject, Storage
from trainedmodel_puller.storage.files import (
    MAX_BATCH_BYTES,
    FilePool,
    SpanWriter,
    first_fault,
    settled,
)
from trainedmodel_puller.storage.journal import FileRecord, Journal
from trainedmodel_puller.storage.limiter import FairLimiter
from trainedmodel_puller.storage.ramp import StreamRamp
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.staging import make_file, prepare, sync_folders

_MIB: Final = 1024 * 1024
_JOURNAL_PERIOD_S: Final = 1.0
#: Share of the time that writing the journal may take: a large one is written less often.
_JOURNAL_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Limits on fetching.

    Attributes:
        max_connections: Streams at once, of all models together.
        part_bytes: What a kill may cost a stream; objects of more than two are read in parallel.
        parts_per_object: Most parallel streams of a model's large objects; fewer when those are
            fast already.
        span_parts: Most parts that one request of a large object covers.
        small_concurrency: Parallel streams of a model's small objects.
        stall_timeout_s: Longest silence of a stream.
        file_threads: Threads that write, of all models together.
    """

    max_connections: int = 32
    part_bytes: int = 8 * _MIB
    parts_per_object: int = 8
    stall_timeout_s: float = 30.0
    small_concurrency: int = 32
    span_parts: int = 8
    file_threads: int = 4


class Downloader:
    """Lists and fetches models; one for the process, an async context manager."""

    def __init__(self, registry: StorageRegistry, limits: DownloadLimits | None = None) -> None:
        self._registry = registry
        self._limits = limits or DownloadLimits()
        self._connections = FairLimiter(self._limits.max_connections)
        self._files = FilePool(self._limits.file_threads)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def list(self, uri: StorageUri, *, credentials: str | None = None) -> Listing:
        """List a model's objects.

        Raises:
            SourceFault: not found, denied, unreachable, or names that cannot be files.
        """
        return await self._registry.for_uri(uri, credentials).list(uri)

    async def fetch(
        self,
        uri: StorageUri,
        listing: Listing,
        folder: Path,
        progress: Callable[[int], None],
        *,
        durable: bool = True,
        credentials: str | None = None,
    ) -> None:
        """Make `folder` hold exactly the listed objects.

        What an earlier fetch left is used again as far as its journal vouches for it. After a
        fault or a cancellation nothing goes on, and the folder is resumable. The journal stays
        beside the folder: remove it (`journal_path`) when the folder moves on.

        Args:
            uri: Where the listing came from.
            listing: As `list` gave it.
            folder: Made if missing; everything else in it is removed.
            progress: Called in the event loop with the bytes that have come into place since the
                last call; the first call counts what was there already.
            durable: Whether data and names are forced to the disk before this returns.
            credentials: Name of a credential profile.

        Raises:
            ModelFault: of the source, which failed or broke its promise, or of the volume.
        """
        journal = await self._files.run(prepare, folder, listing, self._limits.part_bytes)
        transfer = _Transfer(
            storage=self._registry.for_uri(uri, credentials),
            uri=uri,
            folder=folder,
            journal=journal,
            progress=progress,
            durable=durable,
            limits=self._limits,
            connections=self._connections,
            files=self._files,
        )
        try:
            await transfer.run()
        except BaseExceptionGroup as group:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from None
            raise first_fault(group) from None
        if durable:
            await self._files.run(sync_folders, folder, listing)

    async def close(self) -> None:
        """End the writing threads. The registry is its owner's to close."""
        self._files.close()


@dataclass(slots=True)
class _Span:
    """A run of parts of one large object, which one request fetches."""

    record: FileRecord
    first_part: int
    part_count: int


class _Transfer:
    """One fetch of one model."""

    def __init__(
        self,
        *,
        storage: Storage,
        uri: StorageUri,
        folder: Path,
        journal: Journal,
        progress: Callable[[int], None],
        durable: bool,
        limits: DownloadLimits,
        connections: FairLimiter,
        files: FilePool,
    ) -> None:
        self._storage = storage
        self._uri = uri
        self._folder = folder
        self._journal = journal
        self._progress = progress
        self._durable = durable
        self._limits = limits
        self._connections = connections
        self._files = files
        self._has_news = asyncio.Event()
        self._ramp = StreamRamp()

    async def run(self) -> None:
        """Fetch what is missing; the journal is up to date afterwards, whatever happened."""
        records = self._journal.records.values()
        self._progress(sum(record.done_bytes() for record in records))
        missing = [record for record in records if not record.is_done]
        large = [record for record in missing if self._is_large(record.item)]
        small = [record for record in missing if not self._is_large(record.item)]
        for record in large:
            path = self._folder / record.item.path
            await self._files.run(make_file, path, record.item.size)
        spans = deque(span for record in large for span in self._spans(record))
        limits = self._limits
        queue = iter(small)
        try:
            async with asyncio.TaskGroup() as group:
                keeper = group.create_task(self._keep_journal())
                workers = [
                    group.create_task(self._work_large(spans, rank))
                    for rank in range(min(len(spans), limits.parts_per_object))
                ] + [
                    group.create_task(self._work_small(queue))
                    for _ in range(min(len(small), limits.small_concurrency))
                ]
                if workers:
                    # Waiting here, not at the group's end, leaves the group a clean count of
                    # cancellations: ours for a failed worker is told from the caller's.
                    await asyncio.wait(workers)
                keeper.cancel()
        finally:
            await settled(self._files.submit(self._journal.save))

    def _is_large(self, item: SourceObject) -> bool:
        return item.is_ranged and item.size > 2 * self._limits.part_bytes

    def _spans(self, record: FileRecord) -> Iterator[_Span]:
        """Cut the missing parts into spans: short enough that all streams have one."""
        limits = self._limits
        fair_share = -(-record.part_count // limits.parts_per_object)
        longest = max(1, min(limits.span_parts, fair_share))
        part = 0
        while part < record.part_count:
            first = part
            while part < record.part_count and part - first < longest and not record.has(part):
                part += 1
            if part > first:
                yield _Span(record, first, part - first)
            else:
                part += 1

    async def _work_large(self, spans: deque[_Span], rank: int) -> None:
        if not await self._ramp.join(rank):
            return
        while spans:
            await self._fetch_span(spans.popleft())
        self._ramp.end()

    async def _work_small(self, records: Iterator[FileRecord]) -> None:
        for record in records:
            item = record.item
            end = item.size if item.size >= 0 else UNKNOWN_SIZE
            await self._stream(item, 0, end, self._progress, is_new=True, sync=self._durable)
            record.mark_all()
            self._has_news.set()

    async def _fetch_span(self, span: _Span) -> None:
        record, part_bytes = span.record, self._limits.part_bytes
        start = at = span.first_part * part_bytes
        end = min((span.first_part + span.part_count) * part_bytes, record.item.size)
        part = span.first_part

        def written(count: int) -> None:
            nonlocal at, part
            at += count
            while (part + 1) * part_bytes <= at or (at == end and part * part_bytes < end):
                record.mark(part)
                self._has_news.set()
                part += 1
            self._ramp.count(count)
            self._progress(count)

        await self._stream(record.item, start, end, written, is_new=False, sync=False)
        if self._durable and record.is_done:
            await self._files.run(sync_path, self._folder / record.item.path)

    async def _stream(
        self,
        item: SourceObject,
        start: int,
        end: int,
        written: Callable[[int], None],
        *,
        is_new: bool,
        sync: bool,
    ) -> None:
        path = self._folder / item.path
        batch_bytes = min(MAX_BATCH_BYTES, self._limits.part_bytes)
        writer = SpanWriter(
            self._files, path, start, written, is_new=is_new, batch_bytes=batch_bytes
        )
        try:
            async with self._connections.slot(self):
                await self._receive(item, start, end, writer)
            await writer.finish(sync=sync)
        except BaseException:
            await writer.abandon()
            raise

    async def _receive(self, item: SourceObject, start: int, end: int, writer: SpanWriter) -> None:
        wanted = None if end == UNKNOWN_SIZE else end - start
        received = 0
        async with aclosing(self._storage.read(self._uri, item, start, end)) as chunks:
            while True:
                try:
                    async with asyncio.timeout(self._limits.stall_timeout_s):
                        chunk = await anext(chunks, None)
                except TimeoutError:
                    raise self._stalled(item, start + received) from None
                if chunk is None:
                    break
                size = memoryview(chunk).nbytes
                received += size
                if wanted is not None and received > wanted:
                    raise self._mismatch(item, "more", start + received)
                if size:
                    await writer.write(chunk, size)
        if wanted is not None and received < wanted:
            raise self._mismatch(item, "fewer", start + received)

    async def _keep_journal(self) -> None:
        """Save the journal while there is news, at a bounded rate."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            began = time.monotonic()
            await self._files.run(self._journal.save)
            took = time.monotonic() - began
            await asyncio.sleep(max(_JOURNAL_PERIOD_S, took / _JOURNAL_SHARE))

    def _stalled(self, item: SourceObject, at: int) -> SourceFault:
        return SourceFault(
            Reason.SOURCE_STALLED,
            f"{self._uri}: no byte of {item.path!a:.200} for {self._limits.stall_timeout_s:g} s,"
            f" {at} of {item.size} received",
        )

    def _mismatch(self, item: SourceObject, word: str, at: int) -> SourceFault:
        return SourceFault(
            Reason.SIZE_MISMATCH,
            f"{self._uri}: the store sent {word} bytes of {item.path!a:.200} than it listed:"
            f" at {at}, listed with {item.size}",
        )
