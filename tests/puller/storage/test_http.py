from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from puller.storage.servers import RawServer, Request, Respond, lists
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_devkit.stores import HttpStore
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.address_guard import (
    AddressRule,
    CheckedResolver,
    DeniedAddressError,
)
from trainedmodel_puller.storage.base import SourceObject
from trainedmodel_puller.storage.download import Downloader, DownloadLimits
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import METADATA_NETWORKS

CONTENT = bytes(range(256)) * 4096  # 1 MiB: sixteen parts of the tests' limits


async def _fetch(downloader: Downloader, server: RawServer, folder: Path, path: str = "m") -> bytes:
    uri = server.uri(path)
    listing = await downloader.list(uri)
    await downloader.fetch(uri, listing, folder, lambda _: None)
    return await asyncio.to_thread((folder / listing.objects[0].path).read_bytes)


def _answers(*statuses: int, **headers: Any) -> Respond:
    left = list(statuses)

    async def respond(request: Request) -> None:
        await request.answer(left.pop(0) if len(left) > 1 else left[0], **headers)

    return respond


async def _reason(downloader: Downloader, server: RawServer, folder: Path) -> Reason:
    with pytest.raises(SourceFault) as caught:
        await _fetch(downloader, server, folder)
    return caught.value.reason


async def test_a_file_server_is_read_in_parallel_ranges(
    downloader: Downloader, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.bin").write_bytes(CONTENT)
    async with HttpStore(source) as store:
        uri = parse_uri(store.url("m.bin"))
        listing = await downloader.list(uri)
        assert listing.is_single
        assert [(i.path, i.size, i.is_ranged) for i in listing.objects] == [
            ("m.bin", 1 << 20, True)
        ]
        await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
        assert len([r for r in store.requests if r[0] == "GET"]) == 8
    assert (tmp_path / "to" / "m.bin").read_bytes() == CONTENT


async def test_a_head_that_is_refused_is_replaced_by_a_one_byte_get(
    downloader: Downloader, tmp_path: Path
) -> None:
    async def respond(request: Request) -> None:
        await (request.answer(403) if request.method == "HEAD" else request.serve(CONTENT))

    async with RawServer(respond) as server:
        assert await _fetch(downloader, server, tmp_path / "to") == CONTENT
        assert server.gets()[0].range == (0, 1)


async def test_a_server_that_ignores_ranges_is_read_as_one_stream(
    downloader: Downloader, tmp_path: Path
) -> None:
    async def respond(request: Request) -> None:
        await request.answer(200, CONTENT, ETag='"1"')

    async with RawServer(respond) as server:
        assert await _fetch(downloader, server, tmp_path / "to") == CONTENT
        assert len(server.gets()) == 2  # the probe, the stream


async def test_a_server_that_promises_ranges_and_sends_all_is_still_read_right(
    downloader: Downloader, tmp_path: Path
) -> None:
    async def respond(request: Request) -> None:
        await request.answer(200, CONTENT, Accept_Ranges="bytes", ETag='"1"')

    async with RawServer(respond) as server:
        assert await _fetch(downloader, server, tmp_path / "to") == CONTENT


async def test_without_a_length_the_object_is_read_to_its_end(
    downloader: Downloader, tmp_path: Path
) -> None:
    async def respond(request: Request) -> None:
        await request.answer(200, Transfer_Encoding="chunked", Content_Length="")
        if request.method == "GET":
            for _ in range(4):
                request.writer.write(b"10000\r\n" + CONTENT[:65536] + b"\r\n")
            request.writer.write(b"0\r\n\r\n")

    async with RawServer(respond) as server:
        listing = await downloader.list(server.uri("m"))
        assert listing.objects[0].size == -1
        assert await _fetch(downloader, server, tmp_path / "to") == CONTENT[:65536] * 4


async def test_an_empty_object_and_an_escaped_name(downloader: Downloader, tmp_path: Path) -> None:
    async with RawServer(lists(b"")) as server:
        assert await _fetch(downloader, server, tmp_path / "to", "a/my%20model.bin") == b""
    assert (tmp_path / "to" / "my model.bin").exists()


async def test_a_head_that_says_empty_is_not_believed(
    downloader: Downloader, tmp_path: Path
) -> None:
    """Frameworks answer HEAD without a body by a length of 0."""

    async def respond(request: Request) -> None:
        if request.method == "HEAD":
            await request.answer(200, ETag='"1"')
        else:
            await request.serve(CONTENT)

    async with RawServer(respond) as server:
        assert await _fetch(downloader, server, tmp_path / "to") == CONTENT


async def test_an_empty_object_of_a_server_that_refuses_its_first_byte(
    downloader: Downloader, tmp_path: Path
) -> None:
    async def respond(request: Request) -> None:
        await request.answer(416 if request.range else 200, ETag='"1"')

    async with RawServer(respond) as server:
        assert await _fetch(downloader, server, tmp_path / "to") == b""


@pytest.mark.parametrize("path", ["", "a/", "a/..%2f..%2fx", "%2e%2e", "a%00b"])
async def test_a_uri_that_names_no_usable_file_is_refused(
    downloader: Downloader, path: str
) -> None:
    with pytest.raises(SourceFault) as caught:
        await downloader.list(parse_uri(f"http://127.0.0.1:1/{path}"))
    assert caught.value.reason in {Reason.INVALID_URI, Reason.UNSAFE_PATH}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, Reason.ACCESS_DENIED),
        (403, Reason.ACCESS_DENIED),
        (404, Reason.OBJECT_NOT_FOUND),
        (410, Reason.OBJECT_NOT_FOUND),
        (429, Reason.SOURCE_ERROR),
        (500, Reason.SOURCE_ERROR),
        (503, Reason.SOURCE_ERROR),
    ],
)
async def test_a_status_becomes_a_reason(
    downloader: Downloader, tmp_path: Path, status: int, reason: Reason
) -> None:
    async with RawServer(_answers(status)) as server:
        assert await _reason(downloader, server, tmp_path / "to") is reason


async def test_garbage_and_silence_and_nobody(downloader: Downloader, tmp_path: Path) -> None:
    async def garbage(request: Request) -> None:
        request.writer.write(b"SSH-2.0-OpenSSH_9\r\n\r\n")
        request.writer.close()

    async with RawServer(garbage) as server:
        assert await _reason(downloader, server, tmp_path / "to") is Reason.SOURCE_ERROR
    assert await _reason(downloader, server, tmp_path / "to") is Reason.SOURCE_UNREACHABLE


async def test_a_name_that_does_not_resolve_is_unreachable(downloader: Downloader) -> None:
    with pytest.raises(SourceFault) as caught:
        await downloader.list(parse_uri("http://no-such-host.invalid/m"))
    assert caught.value.reason is Reason.SOURCE_UNREACHABLE
    assert "resolve" in caught.value.message


async def test_another_range_than_asked_for_is_an_error(
    downloader: Downloader, tmp_path: Path
) -> None:
    async def respond(request: Request) -> None:
        if request.method == "HEAD":
            await request.serve(CONTENT)
        else:
            await request.answer(206, b"x" * 100, Content_Range="bytes 7-106/1048576")

    async with RawServer(respond) as server:
        assert await _reason(downloader, server, tmp_path / "to") is Reason.SOURCE_ERROR


async def test_one_stream_that_stops_is_a_stall(downloader: Downloader, tmp_path: Path) -> None:
    async def respond(request: Request) -> None:
        await request.answer(200, b"x" * 100, length=1000, ETag='"1"')
        if request.method == "GET":
            await request.hang()

    async with RawServer(respond) as server:
        assert await _reason(downloader, server, tmp_path / "to") is Reason.SOURCE_STALLED
        await server.idle(1)  # the connection of the listing may stay


@pytest.mark.parametrize("is_weak", [True, False])
async def test_an_object_that_changes_half_way_is_noticed(
    downloader: Downloader, tmp_path: Path, *, is_weak: bool
) -> None:
    mark = "W/" if is_weak else ""

    async def respond(request: Request) -> None:
        etag = f'{mark}"{1 if len(server.requests) < 4 else 2}"'
        await request.serve(CONTENT, etag)

    async with RawServer(respond) as server:
        assert await _reason(downloader, server, tmp_path / "to") is Reason.SOURCE_CHANGED


async def test_more_bytes_than_listed_and_fewer_are_a_mismatch(
    downloader: Downloader, tmp_path: Path
) -> None:
    for real in (b"x" * 999, b"x" * 1001):

        async def respond(request: Request, real: bytes = real) -> None:
            if request.method == "HEAD":
                await request.answer(200, b"x" * 1000, ETag='"1"', Accept_Ranges="bytes")
            else:
                await request.answer(
                    200, Content_Length="", Transfer_Encoding="chunked", ETag='"1"'
                )
                request.writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(real), real))

        async with RawServer(respond) as server:
            assert await _reason(downloader, server, tmp_path / "to") is Reason.SIZE_MISMATCH


async def test_a_connection_cut_in_the_body_is_unreachable_not_a_mismatch(
    downloader: Downloader, tmp_path: Path
) -> None:
    async def respond(request: Request) -> None:
        await request.answer(200, b"x" * 10, length=1000, ETag='"1"', Accept_Ranges="bytes")
        if request.method == "GET":
            request.writer.close()

    async with RawServer(respond) as server:
        assert await _reason(downloader, server, tmp_path / "to") is Reason.SOURCE_UNREACHABLE


async def test_redirects_are_followed_and_counted(downloader: Downloader, tmp_path: Path) -> None:
    async def respond(request: Request) -> None:
        hop = int(request.target.rsplit("/", 1)[-1])
        if hop == 0:
            await request.serve(b"model")
        else:
            await request.answer(302, Location=f"/hop/{hop - 1}")

    async with RawServer(respond) as server:
        assert await _fetch(downloader, server, tmp_path / "to", "hop/5") == b"model"
        with pytest.raises(SourceFault, match="5 redirects"):
            await downloader.list(server.uri("hop/6"))


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "2852039166",  # the same in one number, which the client takes for no address at all
        "0xa9fea9fe",
        "168.63.129.16",
    ],
)
async def test_metadata_addresses_are_refused_directly_and_by_redirect(
    downloader: Downloader, address: str
) -> None:
    async with RawServer(_answers(302, Location=f"http://{address}/latest?token=x")) as server:
        for uri in (parse_uri(f"http://{address}/latest"), server.uri("m")):
            with pytest.raises(SourceFault) as caught:
                await downloader.list(uri)
            assert caught.value.reason in {Reason.ACCESS_DENIED, Reason.INVALID_URI}
            assert "token" not in caught.value.message


async def test_the_resolver_refuses_a_name_with_a_denied_address() -> None:
    resolver = CheckedResolver(AddressRule((*METADATA_NETWORKS, "127.0.0.0/8", "::1/128")))
    with pytest.raises(DeniedAddressError):
        await resolver.resolve("localhost", 80)
    await resolver.close()
    await CheckedResolver(AddressRule(METADATA_NETWORKS)).resolve("localhost", 80)


@pytest.mark.parametrize(
    "location", ["ftp://host/x", "file:///etc/passwd", "http://user:secret@127.0.0.1/x", "http://"]
)
async def test_redirects_to_other_things_are_refused(downloader: Downloader, location: str) -> None:
    async with RawServer(_answers(302, Location=location)) as server:
        with pytest.raises(SourceFault) as caught:
            await downloader.list(server.uri("m"))
    assert "secret" not in str(caught.value)


async def test_nothing_ambient_is_sent_and_a_query_is_never_shown(
    downloader: Downloader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with RawServer(_answers(403, Set_Cookie="a=b")) as server:
        for _ in range(2):
            with pytest.raises(SourceFault) as caught:
                await downloader.list(server.uri("m", "?sig=secret"))
            assert "secret" not in str(caught.value)
        assert server.requests[0].target == "/m?sig=secret"
        for request in server.requests:
            assert {"authorization", "cookie", "proxy-authorization"}.isdisjoint(request.headers)


async def test_compressed_transfer_is_neither_asked_for_nor_undone(
    downloader: Downloader, tmp_path: Path
) -> None:
    async def respond(request: Request) -> None:
        assert request.headers["accept-encoding"] == "identity"
        await request.serve(b"\x1f\x8b not really gzip", Content_Encoding="gzip")

    async with RawServer(respond) as server:
        assert await _fetch(downloader, server, tmp_path / "to") == b"\x1f\x8b not really gzip"


async def test_an_abandoned_read_closes_its_connection(registry: StorageRegistry) -> None:
    async with RawServer(lists(CONTENT * 16)) as server:
        uri = server.uri("m")
        reading = registry.for_uri(uri).read(uri, SourceObject("m", 1 << 24, '"1"'), 0, 1 << 24)
        await anext(reading)
        assert server.connections == 1
        await reading.aclose()
        await server.idle()


async def test_connections_stay_within_the_limit(registry: StorageRegistry, tmp_path: Path) -> None:
    limits = DownloadLimits(part_bytes=16 * 1024, max_connections=3, parts_per_object=16)
    async with RawServer(lists(CONTENT)) as server, Downloader(registry, limits) as downloader:
        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(_fetch(downloader, server, tmp_path / name))
        assert server.most_connections <= 3
