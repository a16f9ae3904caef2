"""How much of an object is gathered before it is passed on: what the store's pace allows."""

from __future__ import annotations

import asyncio
import os

import pytest
from puller.storage.servers import RawServer, Request, point_s3, s3_page
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.download import Downloader

_PIECE = 10 * 1024
CONTENT = os.urandom(30 * _PIECE)


class Slow:
    """Sends 200 KiB/s."""

    async def __call__(self, request: Request) -> None:
        if "list-type" in request.target:
            await request.answer(200, s3_page(("m/x", len(CONTENT))))
            return
        modified = "Thu, 01 Jan 2026 00:00:00 GMT"
        await request.answer(200, length=len(CONTENT), ETag='"1"', Last_Modified=modified)
        for at in range(0, len(CONTENT), _PIECE):
            await asyncio.sleep(0.05)
            request.writer.write(CONTENT[at : at + _PIECE])
            await request.writer.drain()


async def test_a_store_too_slow_for_large_chunks_is_read_in_small_ones_the_next_time(
    downloader: Downloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No large chunk comes within the half second that a stream may be silent here, small ones do.

    So each of many streams over a thin line lives, at the price of one fault.
    """
    async with RawServer(Slow()) as server:
        point_s3(monkeypatch, server)
        uri = parse_uri("s3://b/m")
        listing = await downloader.list(uri)
        with pytest.raises(SourceFault) as caught:
            await downloader.read(uri, listing, lambda _: None)
        assert caught.value.reason is Reason.SOURCE_STALLED
        found = await downloader.read(uri, listing, lambda _: None)
    assert b"".join(bytes(chunk) for chunk in found["x"]) == CONTENT
