"""`hf://` against a stand-in for the hub that the hub's official client accepts."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from puller.storage.hub_server import LARGE, STRANGER_TOKEN, TOKEN, Hub, hub_uri
from puller.storage.servers import RawServer, Request
from puller.storage.test_download import tree
from puller.storage.test_kill import peak_of_fetch
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.checksum import verify_checksums
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings

WEIGHTS = os.urandom(300_000)
FILES = {
    ".gitattributes": b"*.bin filter=lfs\n",
    "config.json": b"{}",
    "empty": b"",
    "model.bin": WEIGHTS,
    "onnx/model.onnx": os.urandom(LARGE),
    "onnx/deep er/vocab é.txt": b"words",
}


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    async with Hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


async def fetched(downloader: Downloader, text: str, folder: Path) -> dict[str, bytes]:
    uri = hub_uri(text)
    await downloader.fetch(uri, await downloader.list(uri), folder, lambda _: None)
    return tree(folder)


async def fault_of(downloader: Downloader, text: str, folder: Path) -> SourceFault:
    with pytest.raises(SourceFault) as caught:
        await fetched(downloader, text, folder)
    assert "SECRET" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    return caught.value


async def test_the_stand_in_satisfies_the_hubs_official_client(hub: Hub, tmp_path: Path) -> None:
    sha = hub.repository("org/m").commit(FILES)
    api = HfApi(endpoint=hub.url, token=False)

    def ask() -> None:
        assert api.model_info("org/m", revision="main").sha == sha
        entries = list(api.list_repo_tree("org/m", recursive=True, revision=sha))
        assert {entry.path for entry in entries if hasattr(entry, "blob_id")} == set(FILES)
        for name, content in FILES.items():
            got = api.hf_hub_download("org/m", name, revision=sha, cache_dir=tmp_path)
            assert Path(got).read_bytes() == content

    await asyncio.to_thread(ask)


async def test_a_repository_comes_whole(hub: Hub, downloader: Downloader, tmp_path: Path) -> None:
    hub.repository("org/m").commit(FILES)
    assert await fetched(downloader, "org/m", tmp_path / "to") == FILES


async def test_a_repository_comes_without_the_hubs_own_package_as_in_the_image(
    hub: Hub, downloader: Downloader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    hub.repository("org/m").commit(FILES)
    assert await fetched(downloader, "org/m", tmp_path / "to") == FILES


@pytest.mark.parametrize(
    ("revision", "ref"),
    [
        ("@v1", "v1"),
        (":v1", "v1"),
        ("@refs/pr/7", "refs/pr/7"),
        (":refs%2Fpr%2F7", "refs/pr/7"),
        ("@feature%2Fnew", "feature/new"),
    ],
)
async def test_a_revision_is_spelled_as_kserve_does_or_as_hugging_face_does(
    hub: Hub, downloader: Downloader, tmp_path: Path, revision: str, ref: str
) -> None:
    repository = hub.repository("org/m")
    sha = repository.commit({"a/x": b"wanted"}, ref)
    repository.commit({"a/x": b"other"})
    for number, text in enumerate((revision, f"@{sha}", f":{sha}")):
        assert await fetched(downloader, f"org/m{text}", tmp_path / f"{number}") == {
            "a/x": b"wanted"
        }
    assert await fetched(downloader, f"org/m{revision}/a", tmp_path / "a") == {"x": b"wanted"}
    assert await fetched(downloader, f"org/m{revision}/a/x", tmp_path / "x") == {"x": b"wanted"}


async def test_a_path_is_a_file_or_a_folder_and_never_its_sibling(
    hub: Hub, downloader: Downloader, tmp_path: Path
) -> None:
    repository = hub.repository("org/m")
    repository.commit({"m1/x": b"1", "m10/x": b"10", "m1.bin": b"single", "a/b/c/d": b"deep"})
    assert await fetched(downloader, "org/m/m1", tmp_path / "m1") == {"x": b"1"}
    assert await fetched(downloader, "org/m/m1/", tmp_path / "m1/") == {"x": b"1"}
    assert await fetched(downloader, "org/m/a/b/c", tmp_path / "c") == {"d": b"deep"}
    listing = await downloader.list(hub_uri("org/m/m1.bin"))
    assert (listing.is_single, [item.path for item in listing.objects]) == (True, ["m1.bin"])
    for text in ("org/m/m1.bin/", "org/m/m", "org/m/a/none", "org/m/none/x"):
        fault = await fault_of(downloader, text, tmp_path / "none")
        assert fault.reason is Reason.OBJECT_NOT_FOUND, text


async def test_a_branch_that_moves_between_listing_and_reading_changes_nothing(
    hub: Hub, downloader: Downloader, tmp_path: Path
) -> None:
    repository, uri = hub.repository("org/m"), hub_uri("org/m")
    repository.commit(FILES)
    before = await downloader.list(uri)
    repository.commit({"model.bin": WEIGHTS[:100_000], "new": b"new"})
    await downloader.fetch(uri, before, tmp_path / "to", lambda _: None)
    assert tree(tmp_path / "to") == FILES


async def test_a_branch_that_has_moved_is_seen_at_the_next_listing(
    hub: Hub, downloader: Downloader, tmp_path: Path
) -> None:
    repository, uri = hub.repository("org/m"), hub_uri("org/m")
    repository.commit({"model.bin": WEIGHTS})
    before = await downloader.list(uri)
    await downloader.fetch(uri, before, tmp_path / "to", lambda _: None)
    repository.commit({"model.bin": WEIGHTS[::-1] + b"longer"})
    assert (await downloader.list(uri)).fingerprint() != before.fingerprint()
    got = await fetched(downloader, "org/m", tmp_path / "to")
    assert got == {"model.bin": WEIGHTS[::-1] + b"longer"}


async def test_a_commit_that_leaves_the_files_alone_is_no_other_content(
    hub: Hub, downloader: Downloader
) -> None:
    repository, uri = hub.repository("org/m"), hub_uri("org/m")
    first = repository.commit(FILES)
    before = await downloader.list(uri)
    assert repository.commit(FILES) != first
    assert (await downloader.list(uri)).fingerprint() == before.fingerprint()


async def test_what_was_missing_once_is_found_when_it_is_there(
    hub: Hub, downloader: Downloader, tmp_path: Path
) -> None:
    fault = await fault_of(downloader, "org/late", tmp_path / "to")
    assert fault.reason is Reason.ACCESS_DENIED  # the hub does not tell strangers which it is
    repository = hub.repository("org/late")
    repository.commit({"x": b"1"}, "dev")
    fault = await fault_of(downloader, "org/late", tmp_path / "to")
    assert (fault.reason, "revision" in fault.message) == (Reason.OBJECT_NOT_FOUND, True)
    repository.commit({"x": b"2"})
    assert await fetched(downloader, "org/late", tmp_path / "to") == {"x": b"2"}


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (WEIGHTS[::-1], Reason.DIGEST_MISMATCH),
        (WEIGHTS[:-1], Reason.SIZE_MISMATCH),
        (WEIGHTS + b"x", Reason.SIZE_MISMATCH),
    ],
)
async def test_bytes_that_are_not_the_commits_are_never_taken(
    hub: Hub, tmp_path: Path, sent: bytes, reason: Reason
) -> None:
    hub.repository("org/m").commit({"model.bin": WEIGHTS})
    hub.lies[hashlib.sha256(WEIGHTS).hexdigest()] = sent
    async with StorageRegistry() as registry, Downloader(registry) as downloader:
        fault = await _checked_fault(downloader, tmp_path / "to")
    assert fault.reason is reason
    assert "model.bin" in fault.message


async def test_a_small_file_is_checked_against_its_git_hash(
    hub: Hub, downloader: Downloader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repository("org/m").commit({"config.json": b"{}"})
    monkeypatch.setattr(Request, "serve", _serves_garbage)
    fault = await _checked_fault(downloader, tmp_path / "to")
    assert (fault.reason, "config.json" in fault.message) == (Reason.DIGEST_MISMATCH, True)


async def _serves_garbage(request: Request, content: bytes, *_: object, **__: object) -> None:
    await request.answer(200, bytes(len(content)))


async def _checked_fault(downloader: Downloader, folder: Path) -> SourceFault:
    uri = hub_uri("org/m")
    listing = await downloader.list(uri)
    try:
        await downloader.fetch(uri, listing, folder, lambda _: None)
        await verify_checksums(folder, listing)
    except SourceFault as fault:
        return fault
    raise AssertionError("what was sent is not what was listed, and it was taken")


@pytest.mark.parametrize(
    "case",
    [
        ("is_private", "", Reason.ACCESS_DENIED, "private; set HF_TOKEN"),
        ("is_private", STRANGER_TOKEN, Reason.OBJECT_NOT_FOUND, "may not read it"),
        ("is_private", "hf_wrong", Reason.ACCESS_DENIED, "does not accept the token"),
        ("is_gated", "", Reason.ACCESS_DENIED, "is gated"),
        ("is_gated", STRANGER_TOKEN, Reason.ACCESS_DENIED, "account of the token"),
    ],
)
async def test_a_closed_repository_says_what_it_needs(
    hub: Hub,
    downloader: Downloader,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    case: tuple[str, str, Reason, str],
) -> None:
    how, token, reason, words = case
    hub.repository("org/m", **{how: True}).commit(FILES)
    monkeypatch.setenv("HF_TOKEN", token)
    fault = await fault_of(downloader, "org/m", tmp_path / "to")
    assert fault.reason is reason
    assert words in fault.message
    assert "hf://org/m" in fault.message
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\n")
    assert await fetched(downloader, "org/m", tmp_path / "to") == FILES


async def test_a_token_goes_to_the_hub_alone(
    hub: Hub, downloader: Downloader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.repository("org/m", is_private=True).commit(FILES)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.links_to = f"http://127.0.0.1:{hub.content.port}"
    assert await fetched(downloader, "org/m", tmp_path / "to") == FILES
    assert all("authorization" in request.headers for request in hub.api.requests)
    assert hub.content.requests
    assert not any("authorization" in request.headers for request in hub.content.requests)


async def test_a_profile_has_a_token_and_may_have_a_hub_of_its_own(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.repository("org/m", is_private=True).commit(FILES)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    profile = tmp_path / "profiles" / "team"
    profile.mkdir(parents=True)
    (profile / "HF_ENDPOINT").write_text(hub.url + "\n")
    settings, uri = StorageSettings(profiles_dir=tmp_path / "profiles"), hub_uri("org/m")
    async with StorageRegistry(settings) as registry, Downloader(registry) as downloader:
        with pytest.raises(SourceFault, match="the credential profile has no HF_TOKEN"):
            await downloader.list(uri, credentials="team")
        (profile / "HF_TOKEN").write_text(TOKEN + "\n")
        assert len((await downloader.list(uri, credentials="team")).objects) == len(FILES)
        (profile / "HF_TOKEN").write_text("hf_old")  # a rotated Secret is taken up
        with pytest.raises(SourceFault, match="does not accept the token"):
            await downloader.list(uri, credentials="team")


@pytest.mark.parametrize("endpoint", ["ftp://hub", "hub", "https://me:pw@hub", "http://h?x=1", ":"])
async def test_an_endpoint_that_is_no_address_is_named(
    downloader: Downloader, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(SourceFault, match="HF_ENDPOINT must be an address") as caught:
        await downloader.list(hub_uri("org/m"))
    assert "pw" not in caught.value.message


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"<html>", b'{"sha": "main"}', b'{"sha": 1}', b"[" * 100_000]
)
async def test_a_server_that_is_no_hub_is_told_as_such(
    downloader: Downloader, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    async def respond(request: Request) -> None:
        await request.answer(200, body)

    async with RawServer(respond) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.port}")
        with pytest.raises(SourceFault, match="returned a malformed Hugging Face answer") as caught:
            await downloader.list(hub_uri("org/m"))
    assert caught.value.reason is Reason.SOURCE_ERROR


async def test_a_repository_with_too_many_files_is_refused_after_its_first_pages(hub: Hub) -> None:
    hub.repository("org/m").commit({f"{number:03}": b"x" for number in range(90)})
    async with StorageRegistry(StorageSettings(max_listing=10)) as registry:
        uri = hub_uri("org/m")
        with pytest.raises(SourceFault) as caught:
            await registry.for_uri(uri).list(uri)
    assert caught.value.reason is Reason.LISTING_TOO_LARGE
    assert len(hub.api.requests) < 10


@pytest.mark.timeout(60)
async def test_a_file_is_never_held_whole(hub: Hub, tmp_path: Path) -> None:
    hub.repository("org/m").commit({"model.bin": os.urandom(96 << 20)})
    found = await peak_of_fetch("hf://org/m", tmp_path / "to", frozenset())
    assert found["after"] - found["before"] < 60 * 1024
