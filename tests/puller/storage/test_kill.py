"""A process that is killed in the middle of a fetch, and one whose memory is measured."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from puller.storage.servers import RawServer, Request
from trainedmodel_devkit.stores import S3Store

pytestmark = pytest.mark.slow

PART = 64 * 1024
CONTENT = os.urandom(64 * PART)
PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from trainedmodel_contract.uri import parse_uri
from trainedmodel_puller.storage.download import Downloader, DownloadLimits
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings

def peak():
    # not getrusage: that of a child begins with what its parent had when it forked
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

async def main(text, folder, limits, schemes):
    uri = parse_uri(text)
    settings = StorageSettings(fsspec_schemes=frozenset(schemes))
    async with StorageRegistry(settings) as registry, Downloader(registry, limits) as downloader:
        listing = await downloader.list(uri)
        before = peak()
        calls = []
        await downloader.fetch(uri, listing, Path(folder), calls.append, durable=False)
    after = peak()
    print(json.dumps({"kept": calls[0], "before": before, "after": after}))

limits, schemes = DownloadLimits(**json.loads(sys.argv[3])), json.loads(sys.argv[4])
asyncio.run(main(sys.argv[1], sys.argv[2], limits, schemes))
"""


async def peak_of_fetch(uri: str, folder: Path, schemes: frozenset[str]) -> dict[str, int]:
    """Fetch in another process; return its memory in KiB before and after."""
    return await _result(await _start(uri, folder, schemes))


async def _start(
    uri: object, folder: Path, schemes: frozenset[str] = frozenset(), **limits: int
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(uri),
        str(folder),
        json.dumps(limits),
        json.dumps(sorted(schemes)),
        stdout=asyncio.subprocess.PIPE,
    )


async def _result(process: asyncio.subprocess.Process) -> dict[str, int]:
    out, _ = await process.communicate()
    assert process.returncode == 0
    found: dict[str, int] = json.loads(out)
    return found


async def test_after_a_kill_finished_parts_are_not_fetched_again(tmp_path: Path) -> None:
    is_slow = True

    async def respond(request: Request) -> None:
        if request.range is None or not is_slow:
            await request.serve(CONTENT)
            return
        # Each stream sends three and a half parts of its span, and then no more.
        start, end = request.range
        await request.answer(
            206,
            CONTENT[start : start + PART * 7 // 2],
            length=end - start,
            ETag='"1"',
            Content_Range=f"bytes {start}-{end - 1}/{len(CONTENT)}",
        )
        await request.hang()

    folder = tmp_path / "to"
    async with RawServer(respond) as server:
        uri = server.uri("m")
        first = await _start(uri, folder, part_bytes=PART)
        try:
            async with asyncio.timeout(15):
                await _journal_has(tmp_path / "to.journal", 16)
        finally:
            first.send_signal(signal.SIGKILL)
            await first.communicate()
        is_slow = False
        asked_before = len(server.gets())
        found = await _result(await _start(uri, folder, part_bytes=PART))
        asked = [request.range for request in server.gets()[asked_before:]]
    assert found["kept"] >= 16 * PART
    assert sum(span[1] - span[0] for span in asked if span) == len(CONTENT) - found["kept"]
    assert (folder / "m").read_bytes() == CONTENT


@pytest.mark.parametrize("what", ["etag", "size"])
async def test_after_a_kill_parts_of_another_content_are_not_used(
    tmp_path: Path, what: str
) -> None:
    is_first = True
    later = CONTENT[::-1] if what == "etag" else CONTENT[:-1]

    async def respond(request: Request) -> None:
        if not is_first:
            await request.serve(later, '"2"' if what == "etag" else '"1"')
        elif request.range is not None and request.range[0] > 0:
            await request.hang()
        else:
            await request.serve(CONTENT)

    folder = tmp_path / "to"
    async with RawServer(respond) as server:
        uri = server.uri("m")
        first = await _start(uri, folder, part_bytes=PART)
        try:
            async with asyncio.timeout(15):
                await _journal_has(tmp_path / "to.journal", 8)
        finally:
            first.send_signal(signal.SIGKILL)
            await first.communicate()
        is_first = False
        found = await _result(await _start(uri, folder, part_bytes=PART))
    assert found["kept"] == 0
    assert (folder / "m").read_bytes() == later


async def _journal_has(path: Path, parts: int) -> None:
    def count() -> int:
        if not path.exists():
            return 0
        bits = re.search(r'"parts": "([0-9a-f]+)"', path.read_text())
        return int(bits[1], 16).bit_count() if bits else 0

    while await asyncio.to_thread(count) < parts:  # noqa: ASYNC110 -- another process writes it
        await asyncio.sleep(0.05)


@pytest.mark.scale
@pytest.mark.integration
@pytest.mark.timeout(120)
async def test_memory_is_flat_whatever_the_size_of_an_object(
    s3_env: S3Store, tmp_path: Path
) -> None:
    size = 1 << 30
    bucket = s3_env.folder / "buckets" / "large"

    def make() -> None:
        s3_env.put("large", "small", b"1")
        with (bucket / "one").open("wb") as file:
            for _ in range(64):
                file.write(os.urandom(1 << 24))

    await asyncio.to_thread(make)
    found = await _result(await _start("s3://large/one", tmp_path / "to"))
    assert (tmp_path / "to" / "one").stat().st_size == size
    assert found["after"] < 200 * 1024
    assert found["after"] - found["before"] < 150 * 1024
