"""`gs://` through obstore, on a server of Google Cloud Storage's API."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from puller.storage.test_download import CONTENT, tree
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_devkit.gcs import GcsStore
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.download import Downloader, DownloadLimits
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings

pytestmark = pytest.mark.integration

FILES = {"a.bin": b"1", "sub/big": CONTENT, "sub/empty": b"", "My Models/é v1": b"words"}


@pytest.fixture(scope="module")
def gcs() -> Iterator[GcsStore]:
    with GcsStore("models") as running:
        yield running


@pytest.fixture
async def gcs_downloader(
    gcs: GcsStore, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Downloader]:
    for name in [name for name in os.environ if name.startswith("GOOGLE_")]:
        monkeypatch.delenv(name)
    for name, value in gcs.env().items():
        monkeypatch.setenv(name, value)
    settings = StorageSettings(instance_metadata=False, answer_timeout_s=10)
    limits = DownloadLimits(part_bytes=64 * 1024, stall_timeout_s=10)
    async with StorageRegistry(settings) as registry, Downloader(registry, limits) as downloader:
        yield downloader


async def test_folders_and_single_objects_arrive(
    gcs: GcsStore, gcs_downloader: Downloader, tmp_path: Path
) -> None:
    for name, content in FILES.items():
        gcs.put("models", f"m1/{name}", content)
    gcs.put("models", "m10/never", b"sibling")
    for number, text in enumerate(("gs://models/m1", "gs://models/m1/", "gcs://models/m1")):
        uri, folder = parse_uri(text), tmp_path / str(number)
        listing = await gcs_downloader.list(uri)
        await gcs_downloader.fetch(uri, listing, folder, lambda _: None)
        assert tree(folder) == FILES
    for name in ("sub/big", "My Models/é v1"):
        uri = parse_uri(f"gs://models/m1/{name}")
        listing = await gcs_downloader.list(uri)
        assert listing.is_single
        await gcs_downloader.fetch(uri, listing, tmp_path / "single", lambda _: None)
        assert tree(tmp_path / "single") == {name.rpartition("/")[2]: FILES[name]}


async def test_an_object_replaced_after_the_listing_is_a_change(
    gcs: GcsStore, gcs_downloader: Downloader, tmp_path: Path
) -> None:
    gcs.put("models", "changes.bin", CONTENT)
    uri = parse_uri("gs://models/changes.bin")
    listing = await gcs_downloader.list(uri)
    gcs.put("models", "changes.bin", CONTENT[::-1])
    with pytest.raises(SourceFault) as caught:
        await gcs_downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
    assert caught.value.reason is Reason.SOURCE_CHANGED
    again = await gcs_downloader.list(uri)
    assert again.fingerprint() != listing.fingerprint()
    await gcs_downloader.fetch(uri, again, tmp_path / "to", lambda _: None)
    assert tree(tmp_path / "to") == {"changes.bin": CONTENT[::-1]}


async def test_a_folder_that_a_console_made_arrives(
    gcs: GcsStore, gcs_downloader: Downloader, tmp_path: Path
) -> None:
    for key in ("chain/", "chain/1/", "chain/config.pbtxt"):
        gcs.put("models", key, b"" if key.endswith("/") else b"x")
    uri = parse_uri("gs://models/chain")
    listing = await gcs_downloader.list(uri)
    assert ([item.path for item in listing.objects], listing.folders) == (["config.pbtxt"], ("1",))
    await gcs_downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
    assert (tmp_path / "to" / "1").is_dir()


async def test_what_is_not_there_is_told_as_that(gcs_downloader: Downloader) -> None:
    for text in ("gs://models/none", "gs://models/none/", "gs://models/none.bin"):
        with pytest.raises(SourceFault) as caught:
            await gcs_downloader.list(parse_uri(text))
        assert caught.value.reason is Reason.OBJECT_NOT_FOUND
