"""Stores that cut connections while they send: what was cut begins again, all else goes on."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from puller.storage.servers import RawServer, Request, point_s3, s3_page
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri, parse_uri
from trainedmodel_puller.core.state import Stage
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.storage.download import Downloader, DownloadLimits
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings

MIB = 2**20
PART = MIB // 4
CONTENT = random.Random(5).randbytes(24 * MIB)
LIMITS = DownloadLimits(part_bytes=PART, parts_per_object=4, span_parts=96, stall_timeout_s=5)


class Cutter:
    """Serves an object in ranges and cuts one connection whenever so much has been sent.

    `begun` counts requests by their last byte: of a stream that was cut, there are several.
    """

    def __init__(self, every: int, *, ranged: bool = True) -> None:
        self._every = every
        self._ranged = ranged
        self._sent = 0
        self.cuts = 0
        self.begun: Counter[int] = Counter()

    async def __call__(self, request: Request) -> None:
        if request.target.startswith("/b?"):
            await request.answer(200, s3_page(("m/weights", len(CONTENT))))
            return
        start, end = request.range or (0, len(CONTENT))
        has_range = request.range is not None and self._ranged
        lines = [
            "HTTP/1.1 206 Partial" if has_range else "HTTP/1.1 200 OK",
            'ETag: "1"',
            "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT",
            f"Content-Length: {end - start if has_range else len(CONTENT)}",
        ]
        if self._ranged:
            lines.append("Accept-Ranges: bytes")
        if has_range:
            lines.append(f"Content-Range: bytes {start}-{end - 1}/{len(CONTENT)}")
        request.writer.write("\r\n".join([*lines, "", ""]).encode())
        if request.method == "HEAD":
            return
        if not has_range:
            start, end = 0, len(CONTENT)
        self.begun[end] += 1
        for at in range(start, end, 65536):
            request.writer.write(CONTENT[at : min(at + 65536, end)])
            await request.writer.drain()
            self._sent += 65536
            if self._sent >= self._every and at + 65536 < end:
                self._sent = 0
                self.cuts += 1
                request.writer.close()
                return


async def fetch(uri: StorageUri, to: Path, limits: DownloadLimits = LIMITS) -> None:
    async with (
        StorageRegistry(StorageSettings()) as registry,
        Downloader(registry, limits) as downloader,
    ):
        listing = await downloader.list(uri)
        await downloader.fetch(uri, listing, to, lambda _: None)


@pytest.mark.parametrize("scheme", ["http", "s3"])
async def test_a_cut_connection_costs_its_own_stream_a_moment_and_the_others_nothing(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cutter = Cutter(every=5 * MIB // 2)
    async with RawServer(cutter) as server:
        point_s3(monkeypatch, server)
        uri = server.uri("weights") if scheme == "http" else parse_uri("s3://b/m")
        await fetch(uri, tmp_path / "to")
    assert (tmp_path / "to" / "weights").read_bytes() == CONTENT
    assert cutter.cuts >= 5
    # each cut is one more request, of the stream that was cut
    assert sum(cutter.begun.values()) - len(cutter.begun) == cutter.cuts
    # nothing is read twice, but what was under way in a cut connection
    assert len(cutter.begun) <= 4


async def test_a_store_that_cuts_at_once_ends_the_fetch_after_a_few_tries(tmp_path: Path) -> None:
    cutter = Cutter(every=65536)
    async with RawServer(cutter) as server:
        with pytest.raises(SourceFault) as caught:
            await fetch(server.uri("weights"), tmp_path / "to")
    assert caught.value.reason is Reason.SOURCE_UNREACHABLE
    assert caught.value.gained == 0
    assert sum(cutter.begun.values()) <= 4 * 5


async def test_what_must_be_read_from_its_start_is_no_progress(tmp_path: Path) -> None:
    cutter = Cutter(every=3 * MIB, ranged=False)
    async with RawServer(cutter) as server:
        with pytest.raises(SourceFault) as caught:
            await fetch(server.uri("weights"), tmp_path / "to")
    assert cutter.cuts == 2  # one of them of the question for the size
    assert caught.value.gained == 0


async def test_a_fetch_that_moved_on_says_by_how_much(tmp_path: Path) -> None:
    async def respond(request: Request) -> None:
        end = request.range[1] if request.range else 0
        if request.method == "GET" and end > 12 * MIB:
            await request.answer(503)
        else:
            await request.serve(CONTENT)

    one_by_one = DownloadLimits(part_bytes=PART, parts_per_object=1, span_parts=24)
    async with RawServer(respond) as server:
        with pytest.raises(SourceFault) as caught:
            await fetch(server.uri("weights"), tmp_path / "to", one_by_one)
    assert caught.value.reason is Reason.SOURCE_ERROR
    assert caught.value.gained == 12 * MIB


def test_progress_begins_the_waits_anew() -> None:
    entry = Entry(name="m", storage_uri="s3://b/m", revision="r1")
    state = LiveState(jitter=lambda: 0.0)

    def fail(gained: int) -> int:
        fault = SourceFault(Reason.SOURCE_UNREACHABLE, "cut")
        fault.gained = gained
        return state.fail(("m", "r1"), Stage.DOWNLOAD, entry, fault).count

    assert [fail(0), fail(0), fail(40 * MIB), fail(0)] == [1, 2, 1, 2]
