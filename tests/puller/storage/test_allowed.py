from __future__ import annotations

from pathlib import Path

import pytest
from puller.storage.servers import RawServer, Request
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_puller.errors import SettingsError, SourceFault
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings
from trainedmodel_puller.storage.uri_allowlist import UriRule

_LIST = (
    "s3://models/team-a",
    "s3://open/",
    "gs://only-bucket",
    "https://Models.example.com/pub/",
    "http://plain.example.com:8080",
    "file:///srv/models",
    "hf://org",
    "abfs://c@account.dfs.core.windows.net/m",
)


@pytest.mark.parametrize(
    "text",
    [
        "s3://models/team-a",
        "s3://models/team-a/",
        "s3://models/team-a/x/y",
        "s3://models/team-a//x",
        "s3://open/anything",
        "gs://only-bucket/x",
        "https://models.example.com/pub/m.bin",
        "https://MODELS.example.com:443/pub/m.bin?sig=x",
        "https://models.example.com/p%75b/m.bin",
        "http://plain.example.com:8080/x",
        "file:///srv/models/m",
        "hf://org/repo/file",
        "abfs://c@account.dfs.core.windows.net/m/x",
    ],
)
def test_what_is_below_a_prefix_is_allowed(text: str) -> None:
    UriRule(_LIST).check(parse_uri(text))


@pytest.mark.parametrize(
    "text",
    [
        "s3://models/team-ab",
        "s3://models/team-a%2f..%2fteam-b",
        "s3://models/team-a/%2e%2e/team-b",
        "s3://models/team-a/%252e%252e/team-b",
        "s3://models/team-a/..;x/team-b",
        "s3://models/team-a/..\\team-b",
        "s3://models//team-a/x",
        "s3://models/team%2Da/x",  # a key is taken as it is written: another folder
        "s3://models",
        "s3://openness/x",
        "s3a://models/team-a/x",
        "gs://only-bucket.example.com/x",
        "http://models.example.com/pub/m.bin",
        "https://models.example.com:8443/pub/m.bin",
        "https://models.example.com/public/m.bin",
        "https://models.example.com/pub%2f..%2fprivate",
        "https://models.example.com/pub/%2E%2e/private",
        "https://models.example.com/pub/%5c..%5cprivate",
        "https://models.example.com.evil.org/pub/m.bin",
        "https://models.example.com%2eevil.org/pub/m.bin",
        "https://evil.org/models.example.com/pub/",
        "http://plain.example.com/x",
        "file:///srv/models-other/m",
        "file://srv/models/m",
        "abfs://c@another.dfs.core.windows.net/m/x",
        "memory://models/team-a",
    ],
)
def test_no_spelling_gets_round_a_prefix(text: str) -> None:
    with pytest.raises(SourceFault) as caught:
        UriRule(_LIST).check(parse_uri(text))
    assert caught.value.reason is Reason.URI_NOT_ALLOWED
    assert "--allow-uri" in caught.value.message


def test_an_empty_list_allows_everything() -> None:
    UriRule().check(parse_uri("s3://any/thing/%2e%2e/x"))


@pytest.mark.parametrize(
    "text", ["models/team-a", "s3://m/../x", "https://h/p?x=1", "https://h/%2e%2e/x", "S3://b"]
)
def test_a_prefix_that_is_none_stops_the_start(text: str) -> None:
    with pytest.raises(SettingsError, match="--allow-uri"):
        StorageRegistry(StorageSettings(allowed_uris=(text,)))


async def test_a_uri_that_is_not_allowed_is_refused_before_any_connection(tmp_path: Path) -> None:
    async def respond(request: Request) -> None:
        await request.serve(b"model")

    async with RawServer(respond) as server:
        allowed = (str(server.uri("good")),)
        async with (
            StorageRegistry(StorageSettings(allowed_uris=allowed)) as registry,
            Downloader(registry) as downloader,
        ):
            good = server.uri("good/m")
            listing = await downloader.list(good)
            asked, opened = len(server.requests), server.most_connections
            for call in (
                downloader.list(server.uri("bad/m", "?sig=secret")),
                downloader.fetch(server.uri("bad/m"), listing, tmp_path / "to", lambda _: None),
            ):
                with pytest.raises(SourceFault) as caught:
                    await call
                assert caught.value.reason is Reason.URI_NOT_ALLOWED
                assert "secret" not in caught.value.message
            assert (len(server.requests), server.most_connections) == (asked, opened)
            await downloader.fetch(good, listing, tmp_path / "to", lambda _: None)


async def test_a_redirect_must_stay_within_the_list() -> None:
    async def serve(request: Request) -> None:
        await request.serve(b"model")

    async def forward(request: Request) -> None:
        await request.answer(302, Location=f"http://127.0.0.1:{cdn.port}/blob?sig=secret")

    async with RawServer(serve) as cdn, RawServer(forward) as server:
        home, other = str(server.uri("")), str(cdn.uri("blob"))
        for allowed, is_allowed in (((home,), False), ((home, other), True), ((), True)):
            settings = StorageSettings(allowed_uris=allowed)
            asked = len(cdn.requests)
            async with StorageRegistry(settings) as registry, Downloader(registry) as downloader:
                if is_allowed:
                    assert (await downloader.list(server.uri("m"))).total_bytes == 5
                    continue
                with pytest.raises(SourceFault) as caught:
                    await downloader.list(server.uri("m"))
            assert caught.value.reason is Reason.URI_NOT_ALLOWED
            assert f"127.0.0.1:{cdn.port}" in caught.value.message
            assert "secret" not in caught.value.message
            assert len(cdn.requests) == asked
