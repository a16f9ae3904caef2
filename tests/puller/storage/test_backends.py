"""The object stores through fsspec: what `--storage-backend` selects, on a real S3 server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from puller.storage.test_download import CONTENT, tree
from puller.storage.test_kill import peak_of_fetch
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_devkit.stores import S3Store
from trainedmodel_puller.errors import SettingsError, SourceFault
from trainedmodel_puller.storage.download import Downloader, DownloadLimits
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings, fsspec_schemes

#: Of these tests only s3fs must be there.
S3FS = fsspec_schemes(["s3=fsspec"])


@pytest.mark.parametrize(
    ("choices", "schemes"),
    [
        ([], set()),
        (["obstore"], set()),
        (["s3=fsspec"], {"s3", "s3a"}),
        (["s3=fsspec", "s3=obstore"], set()),
        (["s3=fsspec", "obstore"], set()),
        (["gs=obstore", "s3=fsspec"], {"s3", "s3a"}),
    ],
)
def test_the_last_word_on_a_store_counts(choices: list[str], schemes: set[str]) -> None:
    assert fsspec_schemes(choices) == schemes


@pytest.mark.parametrize("choice", ["", "s3fs", "s3=", "s3=s3fs", "ftp=fsspec", "=fsspec", "s3"])
def test_another_word_is_refused_with_the_right_ones(choice: str) -> None:
    with pytest.raises(SettingsError, match="s3=fsspec"):
        fsspec_schemes([choice])


def test_a_store_whose_package_is_missing_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"trainedmodel-puller\[gcsfs\]"):
        fsspec_schemes(["gs=fsspec"])
    assert fsspec_schemes(["gs=obstore"]) == frozenset()


@pytest.fixture
async def s3fs_downloader(s3_env: S3Store) -> AsyncIterator[Downloader]:
    settings = StorageSettings(fsspec_schemes=S3FS, answer_timeout_s=30)
    limits = DownloadLimits(part_bytes=64 * 1024, stall_timeout_s=30)
    async with StorageRegistry(settings) as registry, Downloader(registry, limits) as downloader:
        yield downloader


@pytest.mark.integration
class TestS3fs:
    async def test_folders_and_single_objects_come_as_with_obstore(
        self, s3fs_downloader: Downloader, downloader: Downloader, s3_env: S3Store, tmp_path: Path
    ) -> None:
        wanted = {"a": b"1", "sub/big": CONTENT, "sub/empty": b""}
        for name, content in wanted.items():
            s3_env.put("fsspec", f"f/m1/{name}", content)
        s3_env.put("fsspec", "f/m10/never", b"sibling")
        for number, text in enumerate(("s3://fsspec/f/m1", "s3://fsspec/f/m1/")):
            uri = parse_uri(text)
            listing, other = await s3fs_downloader.list(uri), await downloader.list(uri)
            assert [(i.path, i.size, i.etag) for i in listing.objects] == [
                (i.path, i.size, i.etag) for i in other.objects
            ]
            assert listing.fingerprint() == other.fingerprint()
            folder = tmp_path / str(number)
            await s3fs_downloader.fetch(uri, listing, folder, lambda _: None)
            assert tree(folder) == wanted
        single = parse_uri("s3://fsspec/f/m1/sub/big")
        listing = await s3fs_downloader.list(single)
        assert listing.is_single
        await s3fs_downloader.fetch(single, listing, tmp_path / "single", lambda _: None)
        assert tree(tmp_path / "single") == {"big": CONTENT}

    async def test_an_object_replaced_after_the_listing_is_a_change(
        self, s3fs_downloader: Downloader, s3_env: S3Store, tmp_path: Path
    ) -> None:
        s3_env.put("fsspec", "changes", CONTENT)
        uri = parse_uri("s3://fsspec/changes")
        listing = await s3fs_downloader.list(uri)
        s3_env.put("fsspec", "changes", CONTENT[::-1])
        with pytest.raises(SourceFault) as caught:
            await s3fs_downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
        assert caught.value.reason is Reason.SOURCE_CHANGED

    async def test_a_slash_at_the_end_asks_for_a_folder_and_never_gets_an_object(
        self, s3fs_downloader: Downloader, downloader: Downloader, s3_env: S3Store
    ) -> None:
        s3_env.put("fsspec", "single.bin", b"1")
        for each in (s3fs_downloader, downloader):
            with pytest.raises(SourceFault) as caught:
                await each.list(parse_uri("s3://fsspec/single.bin/"))
            assert caught.value.reason is Reason.OBJECT_NOT_FOUND

    async def test_faults_have_the_same_reasons(
        self,
        s3fs_downloader: Downloader,
        s3_env: S3Store,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        s3_env.put("fsspec", "m", b"1")
        for text in ("s3://fsspec/none", "s3://fsspec/none/", "s3://no-such-bucket/m"):
            with pytest.raises(SourceFault) as caught:
                await s3fs_downloader.list(parse_uri(text))
            assert caught.value.reason is Reason.OBJECT_NOT_FOUND, text
        denied = s3_env.denied_env()
        for name, value in denied.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SourceFault) as caught:
            await s3fs_downloader.list(parse_uri("s3://fsspec/m"))
        assert caught.value.reason is Reason.ACCESS_DENIED
        assert denied["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)

    async def test_a_profile_is_taken_up_when_it_changes(
        self, s3_env: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        s3_env.put("fsspec", "m", b"1")
        profile = tmp_path / "profiles" / "team"
        profile.mkdir(parents=True)
        for name, value in s3_env.denied_env().items():
            (profile / name).write_text(value)
        for name in list(os.environ):
            if name.startswith("AWS_"):
                monkeypatch.delenv(name)
        settings = StorageSettings(fsspec_schemes=S3FS, profiles_dir=tmp_path / "profiles")
        uri = parse_uri("s3://fsspec/m")
        async with StorageRegistry(settings) as registry, Downloader(registry) as downloader:
            with pytest.raises(SourceFault) as caught:
                await downloader.list(uri, credentials="team")
            assert caught.value.reason is Reason.ACCESS_DENIED
            for name, value in s3_env.env().items():
                (profile / name).write_text(value + "\n")
            listing = await downloader.list(uri, credentials="team")
            await downloader.fetch(
                uri, listing, tmp_path / "to", lambda _: None, credentials="team"
            )
        assert tree(tmp_path / "to") == {"m": b"1"}

    @pytest.mark.timeout(60)
    async def test_an_object_is_never_held_whole(self, s3_env: S3Store, tmp_path: Path) -> None:
        s3_env.put("fsspec", "large", os.urandom(256 << 20))
        found = await peak_of_fetch("s3://fsspec/large", tmp_path / "to", S3FS)
        assert found["after"] - found["before"] < 120 * 1024
