from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations
from puller.storage.test_download import CONTENT, tree
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_devkit.stores import S3Store
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings

pytestmark = pytest.mark.slow


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
    "scheme",
    sorted(
        {"nonsense", "oci", *(name.replace("_", "-") for name in known_implementations)}
        - {"memory", "file", "http", "https", "hf", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}
    ),
)
async def test_a_scheme_that_no_test_runs_is_refused_by_name_and_others_are_named(
    downloader: Downloader, scheme: str
) -> None:
    """Every scheme that fsspec has a word for: `ftp`, `webhdfs`, `dbfs`, `local`, ..."""
    for rest in ("x/y", "host:21/y?z=1"):
        with pytest.raises(SourceFault) as caught:
            await downloader.list(parse_uri(f"{scheme}://{rest}"))
        assert caught.value.reason is Reason.UNSUPPORTED_SCHEME
        assert f"scheme '{scheme}' is not supported" in caught.value.message
        assert "s3" in caught.value.message
        assert "memory" not in caught.value.message


async def test_a_scheme_without_its_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    settings = StorageSettings(fsspec_schemes=frozenset({"gs"}))
    async with StorageRegistry(settings) as registry:
        uri = parse_uri("gs://bucket/m")
        with pytest.raises(SourceFault, match="gcsfs") as caught:
            await registry.for_uri(uri).list(uri)
    assert caught.value.reason is Reason.UNSUPPORTED_SCHEME


class _Remembering(MemoryFileSystem):  # type: ignore[misc]
    """Remembers each answer, as file systems do whatever `use_listings_cache` says."""

    protocol = "memory"

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self._remembered: dict[str, object] = {}

    def info(self, path: str, **options: object) -> object:
        if path not in self._remembered:
            try:
                self._remembered[path] = super().info(path, **options)
            except FileNotFoundError as error:
                self._remembered[path] = error
        found = self._remembered[path]
        if isinstance(found, Exception):
            raise found
        return found

    def invalidate_cache(self, path: str | None = None) -> None:
        self._remembered.clear()


async def test_a_listing_never_asks_the_cache_that_it_is_to_check(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda _: _Remembering)
    uri = parse_uri("memory://b/m")
    async with StorageRegistry() as registry, Downloader(registry) as downloader:
        with pytest.raises(SourceFault) as caught:
            await downloader.list(uri)
        assert caught.value.reason is Reason.OBJECT_NOT_FOUND
        memory.pipe("/b/m", CONTENT)
        before = await downloader.list(uri)
        memory.pipe("/b/m", CONTENT + b"longer")
        with pytest.raises(SourceFault) as caught:
            await downloader.fetch(uri, before, tmp_path / "to", lambda _: None)
        assert caught.value.reason is Reason.SOURCE_CHANGED
        await downloader.fetch(uri, await downloader.list(uri), tmp_path / "to", lambda _: None)
    assert tree(tmp_path / "to") == {"m": CONTENT + b"longer"}


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


@pytest.mark.timeout(240)
async def test_hosts_behind_fsspec_that_never_resolve_take_no_other_host_with_them(
    s3: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file systems share one loop of fsspec's, which has a handful of threads for names."""
    s3.put("models", "hung/weights", b"w")
    gate, asked = threading.Event(), set[object]()
    ask = socket.getaddrinfo

    def look_up(host: object, *more: Any, **named: Any) -> Any:
        if str(host).endswith(".silent.example"):
            asked.add(host)
            gate.wait(150)
        return ask("127.0.0.1" if host == "good.example" else str(host), *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    env = s3.env()
    port = env["AWS_ENDPOINT_URL"].rpartition(":")[2]
    threads = min(32, (os.cpu_count() or 1) + 4)  # of a loop's default executor
    hosts = [f"h{number}.silent.example" for number in range(threads)]
    for host in [*hosts, "good.example"]:
        folder = tmp_path / host.replace(".", "-")
        folder.mkdir()
        for name, value in {**env, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            (folder / name).write_text(value)
    settings = StorageSettings(
        profiles_dir=tmp_path, fsspec_schemes=frozenset({"s3"}), answer_timeout_s=100
    )
    uri = parse_uri("s3://models/hung")
    async with StorageRegistry(settings) as registry:
        hung = [
            asyncio.create_task(registry.for_uri(uri, host.replace(".", "-")).list(uri))
            for host in hosts
        ]
        for _ in range(1000):
            if len(asked) == len(hosts):
                break
            await asyncio.sleep(0.1)
        listing = await registry.for_uri(uri, "good-example").list(uri)
        assert not any(task.done() for task in hung)
        for task in hung:
            task.cancel()
        await asyncio.gather(*hung, return_exceptions=True)
    gate.set()
    assert listing.total_bytes == 1
