"""Transfers the objects of one listing into a folder, resumable, within the process's limits.

An object of up to two parts is one stream. A larger one is cut into spans of several parts that
are read at once, each as one request, into a file that has its final size from the start: real
stores give a single connection 50 to 100 MB/s. Within a span each part counts for itself, so a
kill costs at most one part a stream.

Every stream holds one slot of a limiter shared by all models while it reads (P12), and at most two
batches of a megabyte (P11). A stream without a byte for `stall_timeout_s` is at fault (a listing
is watched by its back end). A stream that was cut continues from its last byte (`core.backoff`),
and the others continue. Any other fault ends the fetch. Its files stay for the next fetch, which
the plan decides on.

`receive` counts the bytes of a stream, and the back ends' conditional requests detect a changed
object.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from trainedmodel_contract.uri import StorageUri
from typing_extensions import Buffer

from trainedmodel_puller.core.backoff import PROGRESS_BYTES, begin_again_s
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.base import UNKNOWN_SIZE, SourceObject, Storage
from trainedmodel_puller.storage.files import (
    MAX_BATCH_BYTES,
    FilePool,
    SpanWriter,
    settled,
)
from trainedmodel_puller.storage.transfer.fair_limiter import FairLimiter
from trainedmodel_puller.storage.transfer.journal import FileRecord, Journal
from trainedmodel_puller.storage.transfer.receive import Sink, receive
from trainedmodel_puller.storage.transfer.resume import make_file, sync_files
from trainedmodel_puller.storage.transfer.small_files import SMALL_BYTES, SmallFile, SmallFileWriter
from trainedmodel_puller.storage.transfer.stream_ramp import StreamRamp
from trainedmodel_puller.volume.durable import sync_path

log: Final = structlog.get_logger()

_MIB: Final = 1024 * 1024
_JOURNAL_PERIOD_S: Final = 1.0
#: Share of the time that writing the journal may take: a large one is written less often.
_JOURNAL_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Limits on fetching.

    Attributes:
        max_connections: Concurrent streams, of all models together.
        part_bytes: Bytes that a kill may cost a stream; objects of more than two parts are read in
            parallel.
        parts_per_object: Limit of the parallel streams of a model's large objects; fewer run if
            they are fast enough.
        span_parts: Limit of the parts that one request of a large object covers.
        small_concurrency: Parallel streams of a model's small objects.
        stall_timeout_s: Longest silence of a stream.
        file_threads: Writing threads, of all models together.
    """

    max_connections: int = 32
    part_bytes: int = 8 * _MIB
    parts_per_object: int = 8
    stall_timeout_s: float = 30.0
    small_concurrency: int = 32
    span_parts: int = 8
    file_threads: int = 4


@dataclass(slots=True)
class _Span:
    """A run of parts of one large object, which one request fetches."""

    record: FileRecord
    first_part: int
    part_count: int


class Transfer:
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
        self._jitter = random.random
        self._moved = 0

    async def run(self) -> None:
        """Fetch what is missing; the journal is up to date afterwards, whatever happened."""
        records = self._journal.records.values()
        self._progress(sum(record.done_bytes() for record in records))
        if self._durable:
            # Whoever wrote these may have been killed before the sync, or never meant to make one.
            kept = [path for path, record in self._journal.records.items() if record.is_done]
            await self._files.run(sync_files, self._folder, kept)
        missing = [record for record in records if not record.is_done]
        large = [record for record in missing if self._is_large(record.item)]
        small = [record for record in missing if not self._is_large(record.item)]
        for record in large:
            path = self._folder / record.item.path
            await self._files.run(make_file, path, record.item.size)
        spans = deque(span for record in large for span in self._spans(record))
        limits = self._limits
        queue = iter(small)
        writer = SmallFileWriter(self._files, limits.file_threads, is_durable=self._durable)
        try:
            async with asyncio.TaskGroup() as group:
                keeper = group.create_task(self._keep_journal())
                workers = [
                    group.create_task(self._work_large(spans, rank))
                    for rank in range(min(len(spans), limits.parts_per_object))
                ] + [
                    group.create_task(self._work_small(queue, writer))
                    for _ in range(min(len(small), limits.small_concurrency))
                ]
                if workers:
                    # Waiting here, not at the group's end, leaves the group a clean count of
                    # cancellations, so one for a failed worker differs from one by the caller.
                    await asyncio.wait(workers)
                keeper.cancel()
            await writer.finish()
            if self._durable:
                await self._files.run(sync_files, self._folder, [each.item.path for each in small])
        finally:
            await writer.abandon()
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

    async def _work_small(self, records: Iterator[FileRecord], writer: SmallFileWriter) -> None:
        for record in records:
            item = record.item
            if 0 <= item.size <= SMALL_BYTES:
                await self._fetch_small(record, writer)
                continue
            end = item.size if item.size >= 0 else UNKNOWN_SIZE
            await self._stream(item, 0, end, self._progress, is_new=True)
            record.mark_all()
            self._has_news.set()

    async def _fetch_small(self, record: FileRecord, writer: SmallFileWriter) -> None:
        item = record.item
        chunks: list[Buffer] = []

        async def gather(chunk: Buffer, size: int) -> None:
            chunks.append(chunk)
            self._moved += size

        def written() -> None:
            record.mark_all()
            self._has_news.set()
            self._progress(item.size)

        def from_start() -> int:
            chunks.clear()  # of a try that was cut
            return 0

        await self._receive(item, from_start, item.size, gather)
        path = os.path.join(self._folder, item.path)
        await writer.add(SmallFile(path, chunks, item.size, written))

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

        await self._stream(record.item, start, end, written, is_new=False)
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
    ) -> None:
        path = self._folder / item.path
        batch_bytes = min(MAX_BATCH_BYTES, self._limits.part_bytes)
        writer = SpanWriter(
            self._files,
            path,
            start,
            written,
            is_new=is_new,
            batch_bytes=batch_bytes,
            is_durable=self._durable,
        )
        at = start

        async def take(chunk: Buffer, size: int) -> None:
            nonlocal at
            await writer.write(chunk, size)
            at += size
            self._moved += size

        try:
            await self._receive(item, lambda: at, end, take)
            await writer.finish()
        except BaseException:
            await writer.abandon()
            raise

    async def _receive(
        self, item: SourceObject, position: Callable[[], int], end: int, sink: Sink
    ) -> None:
        """Read an object's bytes from a position to the end; if it is cut, from where it is then.

        The slot is given back between two tries.
        """
        idle_cuts = 0
        while True:
            start = position()
            try:
                async with self._connections.slot(self) as slot:
                    limit_s = self._limits.stall_timeout_s
                    await receive(self._storage, self._uri, item, start, end, sink, limit_s, slot)
                    return
            except SourceFault as fault:
                at = position()
                idle_cuts = 0 if at - start >= PROGRESS_BYTES else idle_cuts + 1
                pause_s = begin_again_s(
                    fault.reason,
                    idle_cuts,
                    self._jitter(),
                    has_moved=self._moved >= PROGRESS_BYTES,
                )
                if pause_s is None or (at and not item.is_ranged):
                    raise
                log.info("stream_cut", uri=str(self._uri), object=item.path, at=at)
            await asyncio.sleep(pause_s)

    async def _keep_journal(self) -> None:
        """Save the journal while there is news, at a bounded rate."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            began = time.monotonic()
            await self._files.run(self._journal.save)
            took = time.monotonic() - began
            await asyncio.sleep(max(_JOURNAL_PERIOD_S, took / _JOURNAL_SHARE))
