from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from puller.storage.servers import RawServer, Request
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.http_credentials import http_login
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings

TOKEN = "token-of-the-team"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    folder = tmp_path / "profiles" / "team"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
async def downloader(profile: Path) -> AsyncIterator[Downloader]:
    settings = StorageSettings(profiles_dir=profile.parent)
    async with StorageRegistry(settings) as registry, Downloader(registry) as downloader:
        yield downloader


def _write(profile: Path, **values: str) -> None:
    for name, value in values.items():
        (profile / name).write_text(value + "\n")


def _origin(server: RawServer) -> str:
    return f"http://127.0.0.1:{server.port}"


def _said(server: RawServer) -> set[str | None]:
    return {request.headers.get("authorization") for request in server.requests}


async def _serve(request: Request) -> None:
    await request.serve(b"model")


async def _fetch(downloader: Downloader, uri: StorageUri, folder: Path) -> None:
    listing = await downloader.list(uri, credentials="team")
    await downloader.fetch(uri, listing, folder, lambda _: None, credentials="team")


async def test_a_bearer_token_or_a_password_is_sent_with_every_request(
    downloader: Downloader, profile: Path, tmp_path: Path
) -> None:
    async with RawServer(_serve) as server:
        _write(profile, HTTP_ORIGINS=_origin(server), HTTP_BEARER_TOKEN=TOKEN)
        await _fetch(downloader, server.uri("m"), tmp_path / "to")
        assert _said(server) == {f"Bearer {TOKEN}"}
        assert len(server.requests) == 2
    async with RawServer(_serve) as server:
        (profile / "HTTP_BEARER_TOKEN").unlink()
        _write(profile, HTTP_ORIGINS=_origin(server), HTTP_USERNAME="ann", HTTP_PASSWORD="pä:ss")
        await _fetch(downloader, server.uri("m"), tmp_path / "to2")
        pair = base64.b64encode("ann:pä:ss".encode()).decode()
        assert _said(server) == {f"Basic {pair}"}


async def test_a_rotated_secret_counts_from_the_next_listing_on(
    downloader: Downloader, profile: Path
) -> None:
    async def respond(request: Request) -> None:
        is_new = request.headers.get("authorization") == "Bearer new"
        await (request.serve(b"model") if is_new else request.answer(401))

    async with RawServer(respond) as server:
        _write(profile, HTTP_ORIGINS=_origin(server), HTTP_BEARER_TOKEN="old")
        with pytest.raises(SourceFault) as caught:
            await downloader.list(server.uri("m"), credentials="team")
        assert caught.value.reason is Reason.ACCESS_DENIED
        _write(profile, HTTP_BEARER_TOKEN="new")
        assert (await downloader.list(server.uri("m"), credentials="team")).total_bytes == 5


@pytest.mark.parametrize("is_named", [True, False])
async def test_no_other_origin_gets_the_credentials_by_redirect(
    downloader: Downloader, profile: Path, tmp_path: Path, *, is_named: bool
) -> None:
    async def forward(request: Request) -> None:
        if request.target == "/m":
            await request.answer(302, Location=f"{_origin(cdn)}/blob")
        else:
            await request.serve(b"model")

    async def back(request: Request) -> None:
        await request.answer(302, Location=f"{_origin(server)}/again")

    async with RawServer(back) as cdn, RawServer(forward) as server:
        named = f"{_origin(server)}, {_origin(cdn)}" if is_named else _origin(server)
        _write(profile, HTTP_ORIGINS=named, HTTP_BEARER_TOKEN=TOKEN)
        await _fetch(downloader, server.uri("m"), tmp_path / "to")
        assert _said(cdn) == {None}
        for request in server.requests:
            wanted = f"Bearer {TOKEN}" if request.target == "/m" else None
            assert request.headers.get("authorization") == wanted


async def test_a_server_that_the_profile_does_not_name_is_not_even_asked(
    downloader: Downloader, profile: Path
) -> None:
    async with RawServer(_serve) as server:
        for origins in ("https://models.example.com", f"https://127.0.0.1:{server.port}"):
            _write(profile, HTTP_ORIGINS=origins, HTTP_BEARER_TOKEN=TOKEN)
            with pytest.raises(SourceFault) as caught:
                await downloader.list(server.uri("m"), credentials="team")
            assert caught.value.reason is Reason.ACCESS_DENIED
            assert "HTTP_ORIGINS" in caught.value.message
            assert TOKEN not in str(caught.value)
        assert server.requests == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "neither"),
        ({"HTTP_PASSWORD": TOKEN}, "neither"),
        ({"HTTP_BEARER_TOKEN": TOKEN}, "no HTTP_ORIGINS"),
        ({"HTTP_BEARER_TOKEN": f"{TOKEN}\nX: y", "HTTP_ORIGINS": "http://h"}, "characters"),
        ({"HTTP_BEARER_TOKEN": TOKEN, "HTTP_ORIGINS": "http://h/path"}, "no origin"),
        ({"HTTP_BEARER_TOKEN": TOKEN, "HTTP_ORIGINS": "models.example.com"}, "no origin"),
    ],
)
def test_an_incomplete_profile_says_what_it_lacks(values: dict[str, str], words: str) -> None:
    with pytest.raises(SourceFault, match=words) as caught:
        http_login(values)
    assert TOKEN not in str(caught.value)


def test_a_login_never_shows_itself() -> None:
    login = http_login({"HTTP_BEARER_TOKEN": TOKEN, "HTTP_ORIGINS": "https://h"})
    assert TOKEN not in repr(login)
