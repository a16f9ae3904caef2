"""A store that goes away in the middle, for a while or in part, over real sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from puller.storage.servers import RawServer, Request
from puller.storage.test_download import CONTENT, PART, tree
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri, parse_uri
from trainedmodel_devkit.stores import S3Store
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.base import Listing
from trainedmodel_puller.storage.download import Downloader, DownloadLimits
from trainedmodel_puller.storage.registry import StorageRegistry


async def _until_fetched(
    downloader: Downloader, uri: StorageUri, listing: Listing, folder: Path
) -> list[Reason]:
    """Try until it succeeds, as the puller does; return what went wrong before."""
    wrong: list[Reason] = []
    async with asyncio.timeout(15):
        while True:
            try:
                await downloader.fetch(uri, listing, folder, lambda _: None)
            except SourceFault as fault:
                wrong.append(fault.reason)
                await asyncio.sleep(0.05)
            else:
                return wrong


async def test_errors_for_a_while_lose_no_part(downloader: Downloader, tmp_path: Path) -> None:
    served: list[tuple[int, int]] = []
    left = 12

    async def respond(request: Request) -> None:
        nonlocal left
        if request.method == "GET" and request.range != (0, 2 * PART) and left:
            left -= 1
            await request.answer((500, 502, 503, 429)[left % 4])
            return
        if request.range is not None:
            served.append(request.range)
        await request.serve(CONTENT)

    async with RawServer(respond) as server:
        uri = server.uri("m")
        listing = await downloader.list(uri)
        wrong = await _until_fetched(downloader, uri, listing, tmp_path / "to")
    assert set(wrong) == {Reason.SOURCE_ERROR}
    assert tree(tmp_path / "to") == {"m": CONTENT}
    parts = [at for start, end in served for at in range(start, end, PART)]
    assert len(parts) <= 16 + 2 * 8  # at most what eight streams had in their hands


async def test_a_server_that_closes_every_connection_half_way_is_outlasted(
    downloader: Downloader, tmp_path: Path
) -> None:
    async def respond(request: Request) -> None:
        if request.range is None:
            await request.serve(CONTENT)
            return
        # Each answer carries one part and a half, whatever was asked for.
        start, end = request.range
        await request.answer(
            206,
            CONTENT[start : min(end, start + PART * 3 // 2)],
            length=end - start,
            ETag='"1"',
            Content_Range=f"bytes {start}-{end - 1}/{len(CONTENT)}",
        )
        request.writer.close()

    async with RawServer(respond) as server:
        uri = server.uri("m")
        listing = await downloader.list(uri)
        wrong = await _until_fetched(downloader, uri, listing, tmp_path / "to")
    assert set(wrong) == {Reason.SOURCE_UNREACHABLE}
    assert tree(tmp_path / "to") == {"m": CONTENT}


@pytest.fixture
async def small_steps() -> AsyncIterator[Downloader]:
    limits = DownloadLimits(part_bytes=PART, stall_timeout_s=1, span_parts=1, max_connections=2)
    async with StorageRegistry() as registry, Downloader(registry, limits) as downloader:
        yield downloader


@pytest.mark.integration
async def test_a_store_that_is_gone_for_a_moment_costs_no_finished_part(
    small_steps: Downloader, s3_env: S3Store, tmp_path: Path
) -> None:
    content = os.urandom(400 * PART)
    s3_env.put("faults", "m", content)
    uri = parse_uri("s3://faults/m")
    listing = await small_steps.list(uri)
    received: list[int] = []
    is_under_way = asyncio.Event()

    def progress(count: int) -> None:
        received.append(count)
        if sum(received) > 20 * PART:
            is_under_way.set()

    fetching = asyncio.create_task(small_steps.fetch(uri, listing, tmp_path / "to", progress))
    async with asyncio.timeout(10):
        await is_under_way.wait()
    await asyncio.to_thread(s3_env.stop)
    try:
        with pytest.raises(SourceFault) as caught:
            await fetching
        assert caught.value.reason is Reason.SOURCE_UNREACHABLE
        with pytest.raises(SourceFault):
            await small_steps.fetch(uri, listing, tmp_path / "to", lambda _: None)
    finally:
        await asyncio.to_thread(s3_env.start)
    again: list[int] = []
    await small_steps.fetch(uri, listing, tmp_path / "to", again.append)
    assert again[0] >= 19 * PART  # two streams had one part each in their hands
    assert tree(tmp_path / "to") == {"m": content}
