from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import fsspec
import pytest
from puller.storage.servers import RawServer, Request, lists
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_puller.errors import SourceFault, VolumeFault
from trainedmodel_puller.storage.base import Listing
from trainedmodel_puller.storage.download import Downloader, DownloadLimits
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.transfer.journal import journal_path

PART = 64 * 1024
CONTENT = os.urandom(16 * PART)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Progress:
    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, count: int) -> None:
        self.calls.append(count)


async def test_a_folder_has_exactly_the_listed_files_with_plain_modes(
    downloader: Downloader, memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    wanted = {"a.bin": b"1", "b/c/d.bin": CONTENT, "b/empty": b""}
    for name, content in wanted.items():
        memory.pipe(f"/m/{name}", content)
    memory.pipe("/m10/never", b"sibling")
    folder = tmp_path / "to"
    (folder / "left" / "over").mkdir(parents=True)
    (folder / "left" / "over" / "x").touch()
    (folder / "a.bin").mkdir()
    (folder / "b").symlink_to("/etc")
    before = os.umask(0o077)
    try:
        uri, progress = parse_uri("memory://m"), Progress()
        listing = await downloader.list(uri)
        await downloader.fetch(uri, listing, folder, progress)
    finally:
        os.umask(before)
    assert tree(folder) == wanted
    assert sum(progress.calls) == listing.total_bytes == len(CONTENT) + 1
    for path in [folder, *folder.rglob("*")]:
        wanted_mode = 0o755 if path.is_dir() else 0o644
        assert stat.S_IMODE(path.lstat().st_mode) == wanted_mode


async def test_a_second_fetch_asks_for_nothing_and_a_changed_object_is_fetched_again(
    downloader: Downloader, tmp_path: Path
) -> None:
    etag = '"1"'

    async def respond(request: Request) -> None:
        await request.serve(CONTENT if etag == '"1"' else CONTENT[::-1], etag)

    async with RawServer(respond) as server:
        uri, folder = server.uri("m"), tmp_path / "to"
        listing = await downloader.list(uri)
        await downloader.fetch(uri, listing, folder, lambda _: None)
        asked = len(server.gets())
        progress = Progress()
        await downloader.fetch(uri, listing, folder, progress)
        assert (len(server.gets()), progress.calls) == (asked, [len(CONTENT)])
        etag = '"2"'
        await downloader.fetch(uri, await downloader.list(uri), folder, lambda _: None)
    assert tree(folder) == {"m": CONTENT[::-1]}


async def test_a_cancelled_fetch_stops_at_once_and_the_next_one_fetches_the_rest(
    downloader: Downloader, tmp_path: Path
) -> None:
    is_slow = True

    async def respond(request: Request) -> None:
        if is_slow and request.range is not None and request.range[0] >= 8 * PART:
            await request.hang()
        else:
            await request.serve(CONTENT)

    async with RawServer(respond) as server:
        uri, folder = server.uri("m"), tmp_path / "to"
        listing = await downloader.list(uri)
        fetching = asyncio.create_task(downloader.fetch(uri, listing, folder, lambda _: None))
        await asyncio.sleep(0.3)
        fetching.cancel()
        async with asyncio.timeout(0.5):
            with pytest.raises(asyncio.CancelledError):
                await fetching
        is_slow = False
        already = len(server.gets())
        progress = Progress()
        await downloader.fetch(uri, listing, folder, progress)
        again = [request.range for request in server.gets()[already:]]
        assert progress.calls[0] == 8 * PART
        assert all(span is not None and span[0] >= 8 * PART for span in again)
    assert tree(folder) == {"m": CONTENT}


async def test_a_fault_in_one_stream_keeps_the_parts_of_the_others(
    downloader: Downloader, tmp_path: Path
) -> None:
    async def respond(request: Request) -> None:
        if request.range is not None and request.range[0] == 14 * PART and not is_well:
            await asyncio.sleep(0.2)
            await request.answer(500)
        else:
            await request.serve(CONTENT)

    is_well = False
    async with RawServer(respond) as server:
        uri, folder = server.uri("m"), tmp_path / "to"
        listing = await downloader.list(uri)
        with pytest.raises(SourceFault) as caught:
            await downloader.fetch(uri, listing, folder, lambda _: None)
        assert caught.value.reason is Reason.SOURCE_ERROR
        is_well, progress = True, Progress()
        await downloader.fetch(uri, listing, folder, progress)
        assert progress.calls[0] == 14 * PART
    assert tree(folder) == {"m": CONTENT}


@pytest.mark.parametrize(
    "harm",
    ["truncated file", "file gone", "file is a link", "no journal", "garbage", "other boot", "odd"],
)
async def test_what_the_journal_cannot_vouch_for_is_fetched_again(
    downloader: Downloader, tmp_path: Path, harm: str
) -> None:
    folder, source = tmp_path / "to", tmp_path / "elsewhere"
    source.write_bytes(b"x" * len(CONTENT))
    journal = journal_path(folder)
    async with RawServer(lists(CONTENT)) as server:
        uri = server.uri("m")
        listing = await downloader.list(uri)
        await downloader.fetch(uri, listing, folder, lambda _: None)
        if harm == "truncated file":
            os.truncate(folder / "m", 5)
        elif harm in {"file gone", "file is a link"}:
            (folder / "m").unlink()
        if harm == "file is a link":
            (folder / "m").symlink_to(source)
        if harm == "no journal":
            journal.unlink()
        elif harm == "garbage":
            journal.write_bytes(b"\xff{")
        elif harm == "other boot":
            journal.write_text(json.dumps({**json.loads(journal.read_text()), "boot": "another"}))
        elif harm == "odd":
            journal.write_text(json.dumps({**json.loads(journal.read_text()), "files": {"m": 7}}))
        progress = Progress()
        await downloader.fetch(uri, listing, folder, progress)
        assert progress.calls[0] == 0
    assert tree(folder) == {"m": CONTENT}
    assert source.read_bytes() == b"x" * len(CONTENT)


async def test_an_object_without_etag_or_time_is_never_used_again(
    downloader: Downloader, tmp_path: Path
) -> None:
    async def respond(request: Request) -> None:
        await request.answer(200, b"model")

    async with RawServer(respond) as server:
        uri = server.uri("m")
        listing = await downloader.list(uri)
        for _ in range(2):
            progress = Progress()
            await downloader.fetch(uri, listing, tmp_path / "to", progress)
            assert progress.calls[0] == 0


async def test_a_full_volume_is_told_from_a_broken_one(
    downloader: Downloader,
    memory: fsspec.AbstractFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory.pipe("/m/x", CONTENT)
    uri = parse_uri("memory://m")
    listing = await downloader.list(uri)
    for code, reason in (
        (errno.ENOSPC, Reason.INSUFFICIENT_DISK),
        (errno.EDQUOT, Reason.INSUFFICIENT_DISK),
        (errno.EIO, Reason.VOLUME_ERROR),
        (errno.EROFS, Reason.VOLUME_ERROR),
    ):

        def refuse(*_: Any, code: int = code) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "pwritev", refuse)
        with pytest.raises(VolumeFault) as caught:
            await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
        assert caught.value.reason is reason


async def test_a_folder_that_cannot_be_made_is_a_volume_error(
    downloader: Downloader, memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    memory.pipe("/m/x", b"1")
    (tmp_path / "file").touch()
    uri = parse_uri("memory://m")
    listing = await downloader.list(uri)
    with pytest.raises(VolumeFault) as caught:
        await downloader.fetch(uri, listing, tmp_path / "file" / "to", lambda _: None)
    assert caught.value.reason is Reason.VOLUME_ERROR


async def test_a_model_of_many_objects_does_not_starve_another(
    registry: StorageRegistry, tmp_path: Path
) -> None:
    async def respond(request: Request) -> None:
        await asyncio.sleep(0.01)
        await request.serve(b"x")

    limits = DownloadLimits(max_connections=4)
    async with RawServer(respond) as server, Downloader(registry, limits) as downloader:
        many_uri, few_uri = server.uri("many/x"), server.uri("few")
        one = (await downloader.list(many_uri)).objects[0]
        many = Listing(tuple(_renamed(one, n) for n in range(2000)), is_single=False)
        few = await downloader.list(few_uri)
        slow = asyncio.create_task(
            downloader.fetch(many_uri, many, tmp_path / "many", lambda _: None, durable=False)
        )
        await asyncio.sleep(0.2)
        async with asyncio.timeout(1):
            await downloader.fetch(few_uri, few, tmp_path / "few", lambda _: None)
        assert not slow.done()
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow


def _renamed(item: Any, number: int) -> Any:
    import dataclasses

    return dataclasses.replace(item, path=f"{number:04}")


async def test_a_slow_stream_is_not_a_stalled_one(downloader: Downloader, tmp_path: Path) -> None:
    async def respond(request: Request) -> None:
        await request.answer(200, length=10, ETag='"1"')
        if request.method == "GET" and request.range is None:
            for _ in range(10):
                await asyncio.sleep(0.1)
                request.writer.write(b"x")

    async with RawServer(respond) as server:
        uri = server.uri("m")
        listing = await downloader.list(uri)
        await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
    assert tree(tmp_path / "to") == {"m": b"x" * 10}


async def test_a_fetch_under_a_timeout_leaves_the_caller_uncancelled(
    downloader: Downloader, tmp_path: Path
) -> None:
    async def respond(request: Request) -> None:
        await (request.serve(CONTENT) if request.method == "HEAD" else request.answer(500))

    async with RawServer(respond) as server:
        uri = server.uri("m")
        listing = await downloader.list(uri)
        with pytest.raises(SourceFault):
            await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
