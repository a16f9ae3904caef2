from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import fsspec
import pytest
from puller.storage.test_download import CONTENT, tree
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.storage.fsspec_store import REFUSED_SCHEMES
from trainedmodel_puller.storage.registry import StorageRegistry


async def test_single_and_folder_and_neither(
    downloader: Downloader, memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    memory.pipe("/b/m.bin", CONTENT)
    memory.pipe("/b/m1/x", b"1")
    memory.pipe("/b/m10/x", b"10")
    single = await downloader.list(parse_uri("memory://b/m.bin"))
    assert (single.is_single, single.objects[0].path) == (True, "m.bin")
    uri = parse_uri("memory://b/m1")
    await downloader.fetch(uri, await downloader.list(uri), tmp_path / "to", lambda _: None)
    assert tree(tmp_path / "to") == {"x": b"1"}
    with pytest.raises(SourceFault) as caught:
        await downloader.list(parse_uri("memory://b/m"))
    assert caught.value.reason is Reason.OBJECT_NOT_FOUND


@pytest.mark.parametrize(
    "scheme", ["nonsense", *sorted(REFUSED_SCHEMES - {"file", "http", "https"})]
)
async def test_unknown_and_refused_schemes_name_the_supported_ones(
    downloader: Downloader, scheme: str
) -> None:
    scheme = scheme.replace("_", "-")
    with pytest.raises(SourceFault) as caught:
        await downloader.list(parse_uri(f"{scheme}://x/y"))
    assert caught.value.reason is Reason.UNSUPPORTED_SCHEME
    assert scheme in caught.value.message
    assert "s3" in caught.value.message
    assert "memory" in caught.value.message


async def test_a_scheme_without_its_package_says_which(downloader: Downloader) -> None:
    with pytest.raises(SourceFault) as caught:
        await downloader.list(parse_uri("oss://bucket/m"))
    assert caught.value.reason is Reason.UNSUPPORTED_SCHEME
    assert "ossfs" in caught.value.message


async def test_a_store_that_fails_keeps_its_words_to_itself(
    downloader: Downloader, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/m/x", b"1")
    for error, reason in (
        (PermissionError("secret"), Reason.ACCESS_DENIED),
        (ConnectionError("secret"), Reason.SOURCE_UNREACHABLE),
        (RuntimeError("secret"), Reason.SOURCE_ERROR),
    ):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(type(memory), "walk", fail)
        with pytest.raises(SourceFault) as caught:
            await downloader.list(parse_uri("memory://m"))
        assert caught.value.reason is reason
        assert "secret" not in str(caught.value)


async def test_a_store_that_hangs_is_a_stall(
    downloader: Downloader,
    memory: fsspec.AbstractFileSystem,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    memory.pipe("/m/x", b"1")
    uri, go = parse_uri("memory://m"), threading.Event()
    listing = await downloader.list(uri)
    monkeypatch.setattr(type(memory), "cat_file", lambda *_, **__: go.wait(10))
    try:
        async with asyncio.timeout(3):
            with pytest.raises(SourceFault) as caught:
                await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
        assert caught.value.reason is Reason.SOURCE_STALLED
    finally:
        go.set()


async def test_credentials_are_refused_where_nothing_takes_them(registry: StorageRegistry) -> None:
    for text in ("file:///m", "pvc://claim/m", "memory://m"):
        with pytest.raises(SourceFault, match="credential profiles"):
            registry.for_uri(parse_uri(text), "team")
    for text in ("s3://b/m", "http://host/m", "hf://org/m"):
        for name in ("team", "../up"):
            with pytest.raises(SourceFault, match="not mounted"):
                registry.for_uri(parse_uri(text), name)


async def test_an_object_replaced_while_it_is_read_is_a_change(
    downloader: Downloader,
    memory: fsspec.AbstractFileSystem,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    memory.pipe("/m/x", CONTENT)
    uri = parse_uri("memory://m")
    listing = await downloader.list(uri)
    read, left = type(memory).cat_file, [2]

    def replace(self: object, path: str, **span: int) -> object:
        left[0] -= 1
        if left[0] == 0:
            memory.pipe("/m/x", CONTENT[::-1])
        return read(self, path, **span)

    monkeypatch.setattr(type(memory), "cat_file", replace)
    with pytest.raises(SourceFault) as caught:
        await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
    assert caught.value.reason is Reason.SOURCE_CHANGED
    monkeypatch.undo()
    again = await downloader.list(uri)
    await downloader.fetch(uri, again, tmp_path / "to", lambda _: None)
    assert tree(tmp_path / "to") == {"x": CONTENT[::-1]}
