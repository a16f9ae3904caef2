from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from puller.storage.servers import RawServer, Request, point_s3, s3_page
from puller.storage.test_download import CONTENT, tree
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_devkit.stores import S3Store
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.base import Listing
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")


def _put(s3: S3Store, **objects: bytes) -> None:
    for key, content in objects.items():
        s3.put("bucket", key.replace("__", "/"), content)


async def _fault(downloader: Downloader, text: str, credentials: str | None = None) -> SourceFault:
    with pytest.raises(SourceFault) as caught:
        async with asyncio.timeout(10):
            await downloader.list(parse_uri(text), credentials=credentials)
    return caught.value


@pytest.mark.integration
class TestRealServer:
    async def test_a_folder_is_fetched_without_its_sibling_and_without_markers(
        self, downloader: Downloader, s3_env: S3Store, tmp_path: Path
    ) -> None:
        wanted = {"a": b"1", "sub/big": CONTENT, "sub/empty": b""}
        for name, content in wanted.items():
            s3_env.put("bucket", f"f/m1/{name}", content)
        s3_env.put("bucket", "f/m10/never", b"sibling")
        s3_env.put("bucket", "f/m1.txt", b"sibling")
        (s3_env.folder / "buckets" / "bucket" / "f" / "m1" / "marker").mkdir()
        for text in ("s3://bucket/f/m1", "s3://bucket/f/m1/"):
            uri = parse_uri(text)
            listing = await downloader.list(uri)
            assert not listing.is_single
            await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
            assert tree(tmp_path / "to") == wanted

    async def test_a_single_object_is_its_base_name(
        self, downloader: Downloader, s3_env: S3Store, tmp_path: Path
    ) -> None:
        _put(s3_env, single__m=CONTENT)
        uri = parse_uri("s3://bucket/single/m")
        listing = await downloader.list(uri)
        assert listing.is_single
        assert listing.total_bytes == len(CONTENT)
        await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
        assert tree(tmp_path / "to") == {"m": CONTENT}
        assert listing.fingerprint() == (await downloader.list(uri)).fingerprint()

    async def test_an_object_named_like_its_folder_is_the_one_below(
        self, downloader: Downloader, s3_env: S3Store, tmp_path: Path
    ) -> None:
        _put(s3_env, twice__m__m=b"below")
        uri = parse_uri("s3://bucket/twice/m")
        await downloader.fetch(uri, await downloader.list(uri), tmp_path / "to", lambda _: None)
        assert tree(tmp_path / "to") == {"m": b"below"}

    async def test_what_is_not_there_is_not_found(
        self, downloader: Downloader, s3_env: S3Store
    ) -> None:
        _put(s3_env, present=b"1")
        for text in (
            "s3://bucket/no",
            "s3://bucket/no/",
            "s3://no-such-bucket/m",
            "s3://no-bucket",
        ):
            fault = await _fault(downloader, text)
            assert fault.reason is Reason.OBJECT_NOT_FOUND, text
            assert "Debug" not in fault.message

    async def test_wrong_rights_are_denied_in_plain_words(
        self, downloader: Downloader, s3_env: S3Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _put(s3_env, m=b"1")
        for name, value in s3_env.denied_env().items():
            monkeypatch.setenv(name, value)
        fault = await _fault(downloader, "s3://bucket/m")
        assert fault.reason is Reason.ACCESS_DENIED
        assert len(fault.message) < 300
        assert s3_env.denied_env()["AWS_SECRET_ACCESS_KEY"] not in fault.message

    async def test_a_wrong_secret_is_denied(
        self, downloader: Downloader, s3_env: S3Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _put(s3_env, m=b"1")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        assert (await _fault(downloader, "s3://bucket/m")).reason is Reason.ACCESS_DENIED

    async def test_without_credentials_it_is_denied_fast_and_says_so(
        self, downloader: Downloader, s3_env: S3Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _put(s3_env, m=b"1")
        for name in _KEYS[:2]:
            monkeypatch.delenv(name)
        async with asyncio.timeout(2):
            fault = await _fault(downloader, "s3://bucket/m")
        assert fault.reason is Reason.ACCESS_DENIED
        assert "no credentials are configured" in fault.message

    async def test_a_profile_is_read_afresh_and_the_environment_does_not_mix_in(
        self, s3_env: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        _put(s3_env, m=b"1")
        profile = tmp_path / "profiles" / "team"
        profile.mkdir(parents=True)
        for name, value in s3_env.denied_env().items():
            (profile / name).write_text(value + "\n")
        for name in _KEYS:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SESSION_TOKEN", "of-somebody-else")
        settings = StorageSettings(profiles_dir=tmp_path / "profiles")
        async with StorageRegistry(settings) as registry, Downloader(registry) as downloader:
            fault = await _fault(downloader, "s3://bucket/m", "team")
            assert fault.reason is Reason.ACCESS_DENIED
            for name, value in s3_env.env().items():
                (profile / name).write_text(value)
            uri = parse_uri("s3://bucket/m")
            listing = await downloader.list(uri, credentials="team")
            await downloader.fetch(
                uri, listing, tmp_path / "to", lambda _: None, credentials="team"
            )
            assert "not mounted" in (await _fault(downloader, "s3://bucket/m", "none")).message
        assert tree(tmp_path / "to") == {"m": b"1"}

    async def test_an_object_replaced_after_the_listing_is_a_change(
        self, downloader: Downloader, s3_env: S3Store, tmp_path: Path
    ) -> None:
        _put(s3_env, changes=CONTENT)
        uri = parse_uri("s3://bucket/changes")
        listing = await downloader.list(uri)
        for is_gone in (False, True):
            if is_gone:
                (s3_env.folder / "buckets" / "bucket" / "changes").unlink()
            else:
                _put(s3_env, changes=CONTENT[::-1])
            with pytest.raises(SourceFault) as caught:
                await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
            assert caught.value.reason is Reason.SOURCE_CHANGED

    async def test_a_store_that_is_gone_is_unreachable_and_comes_back(
        self, downloader: Downloader, s3_env: S3Store
    ) -> None:
        _put(s3_env, m=b"1")
        await asyncio.to_thread(s3_env.stop)
        try:
            assert (await _fault(downloader, "s3://bucket/m")).reason is Reason.SOURCE_UNREACHABLE
        finally:
            await asyncio.to_thread(s3_env.start)
        assert (await downloader.list(parse_uri("s3://bucket/m"))).total_bytes == 1

    async def test_five_hundred_small_objects_come_through(
        self, downloader: Downloader, s3_env: S3Store, tmp_path: Path
    ) -> None:
        wanted = {f"{n % 7}/{n}": os.urandom(n) for n in range(500)}
        for name, content in wanted.items():
            path = tmp_path / "from" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        uri = parse_uri(s3_env.put_tree("bucket", "many", tmp_path / "from"))
        await downloader.fetch(uri, await downloader.list(uri), tmp_path / "to", lambda _: None)
        assert tree(tmp_path / "to") == wanted


class FalseS3:
    """Lists what it is told to, and answers for objects as it is told to."""

    def __init__(self, *keys: tuple[str, int]) -> None:
        self.page = s3_page(*keys)
        self.content = b""
        self.is_listing_refused = False
        self.head_status = 404

    async def __call__(self, request: Request) -> None:
        if "list-type" in request.target:
            if self.is_listing_refused:
                await request.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
            else:
                await request.answer(200, self.page)
        elif request.method == "HEAD":
            await request.answer(self.head_status)
        else:
            await self.get(request)

    async def get(self, request: Request) -> None:
        await request.serve(self.content, Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")


class TestFalseServer:
    @pytest.mark.parametrize("key", ["m/../../etc/passwd", "m//x", "m/./x", "m/a&#10;b"])
    async def test_keys_that_climb_are_unsafe(
        self, downloader: Downloader, monkeypatch: pytest.MonkeyPatch, key: str
    ) -> None:
        async with RawServer(FalseS3((key, 1), ("m/good", 1))) as server:
            point_s3(monkeypatch, server)
            assert (await _fault(downloader, "s3://b/m")).reason is Reason.UNSAFE_PATH

    async def test_markers_are_dropped_whether_or_not_anything_is_in_them(
        self, downloader: Downloader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = (("m/", 0), ("m/full/", 0), ("m/full/x", 1), ("m/void/", 0))
        async with RawServer(FalseS3(*keys)) as server:
            point_s3(monkeypatch, server)
            listing = await downloader.list(parse_uri("s3://b/m"))
        assert [item.path for item in listing.objects] == ["full/x"]

    async def test_an_object_that_is_also_a_folder_is_unsafe(
        self, downloader: Downloader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with RawServer(FalseS3(("m/x", 5), ("m/x/y", 1))) as server:
            point_s3(monkeypatch, server)
            assert (await _fault(downloader, "s3://b/m")).reason is Reason.UNSAFE_PATH

    async def test_the_right_to_list_alone_and_no_right_at_all(
        self, downloader: Downloader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        false = FalseS3(("m/x", 1))
        false.head_status = 403
        async with RawServer(false) as server:
            point_s3(monkeypatch, server)
            assert (await downloader.list(parse_uri("s3://b/m"))).total_bytes == 1
            false.is_listing_refused = True
            assert (await _fault(downloader, "s3://b/m")).reason is Reason.ACCESS_DENIED

    @pytest.mark.parametrize("real", [999, 1001])
    async def test_another_size_than_listed_is_a_mismatch(
        self,
        downloader: Downloader,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        real: int,
    ) -> None:
        false = FalseS3(("m/x", 1000))
        false.content = b"x" * real
        reason = await self._fetch_reason(downloader, monkeypatch, false, tmp_path)
        assert reason is Reason.SIZE_MISMATCH

    async def test_an_etag_that_changes_between_parts_is_a_change_even_if_if_match_is_ignored(
        self, downloader: Downloader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        class Changing(FalseS3):
            async def get(self, request: Request) -> None:
                etag = '"1"' if request.range and request.range[0] == 0 else '"2"'
                request.headers.pop("if-match", None)
                await request.serve(
                    self.content, etag, Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT"
                )

        false = Changing(("m/x", len(CONTENT)))
        false.content = CONTENT
        reason = await self._fetch_reason(downloader, monkeypatch, false, tmp_path)
        assert reason is Reason.SOURCE_CHANGED

    async def test_a_body_that_stops_is_a_stall_and_leaves_no_connection(
        self, downloader: Downloader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        class Hanging(FalseS3):
            async def get(self, request: Request) -> None:
                await request.answer(
                    200,
                    b"x",
                    length=1000,
                    ETag='"1"',
                    Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT",
                )
                await request.hang()

        reason = await self._fetch_reason(downloader, monkeypatch, Hanging(("m/x", 1000)), tmp_path)
        assert reason is Reason.SOURCE_STALLED

    async def test_an_answer_that_never_comes_bounds_the_listing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = StorageSettings(answer_timeout_s=0.3)
        async with (
            RawServer(lambda request: request.hang()) as server,
            StorageRegistry(settings) as registry,
            Downloader(registry) as downloader,
        ):
            point_s3(monkeypatch, server)
            fault = await _fault(downloader, "s3://b/m")
        assert fault.reason is Reason.SOURCE_UNREACHABLE

    @pytest.mark.parametrize("status", [500, 503, 429])
    async def test_a_store_in_trouble_is_an_error_with_its_words(
        self, downloader: Downloader, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        async def respond(request: Request) -> None:
            await request.answer(status, b"<Error><Code>SlowDown</Code><Message>No.</Message>")

        async with RawServer(respond) as server:
            point_s3(monkeypatch, server)
            fault = await _fault(downloader, "s3://b/m/")
        assert fault.reason is Reason.SOURCE_ERROR
        assert f"{status} (SlowDown: No.)" in fault.message

    @staticmethod
    async def _fetch_reason(
        downloader: Downloader, monkeypatch: pytest.MonkeyPatch, false: FalseS3, tmp_path: Path
    ) -> Reason:
        uri = parse_uri("s3://b/m")
        async with RawServer(false) as server:
            point_s3(monkeypatch, server)
            listing: Listing = await downloader.list(uri)
            with pytest.raises(SourceFault) as caught:
                await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
            await server.idle(8)  # those that answered in full are kept for the next request
        return caught.value.reason


async def test_azure_lists_its_etags_without_the_quotes_it_answers_with(
    downloader: Downloader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    modified = "Thu, 01 Jan 2026 00:00:00 GMT"
    blob = (
        f"<Blob><Name>m/x</Name><Properties><Last-Modified>{modified}</Last-Modified>"
        "<Etag>0x8D</Etag><Content-Length>1</Content-Length><BlobType>BlockBlob</BlobType>"
        "<Content-Type>a/b</Content-Type></Properties></Blob>"
    )
    page = f"<EnumerationResults><Blobs>{blob}</Blobs><NextMarker /></EnumerationResults>"

    async def respond(request: Request) -> None:
        if "comp=list" in request.target:
            await request.answer(200, f'<?xml version="1.0"?>{page}'.encode())
        elif request.method == "HEAD":
            await request.answer(404)
        else:
            await request.serve(b"1", '"0x8D"', Last_Modified=modified)

    async with RawServer(respond) as server:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{server.port}")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
        uri = parse_uri("az://c/m")
        await downloader.fetch(uri, await downloader.list(uri), tmp_path / "to", lambda _: None)
        assert server.gets()[-1].headers["if-match"] == '"0x8D"'
    assert tree(tmp_path / "to") == {"x": b"1"}


@pytest.mark.parametrize(
    "text",
    [
        "s3://a:b/x",
        "s3://a%2fb/x",
        "gs://a..b/x",
        "abfs://c@host.example.com/x",
        "abfss://c@evil.dfs.core.windows.net.example.com/x",
    ],
)
async def test_a_uri_cannot_name_a_host(downloader: Downloader, text: str) -> None:
    assert (await _fault(downloader, text)).reason is Reason.INVALID_URI
