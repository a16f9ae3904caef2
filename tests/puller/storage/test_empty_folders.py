"""Folders with nothing in them: what a store knows of them arrives, from every kind of source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import botocore.config  # type: ignore[import-untyped]
import botocore.session  # type: ignore[import-untyped]
import fsspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from puller.storage.test_archives import file, folder, pack, unpacked
from puller.storage.test_download import tree
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_devkit.stores import S3Store
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.archives import ArchiveKind
from trainedmodel_puller.storage.base import Listing, SourceObject
from trainedmodel_puller.storage.checksum import matches_listing
from trainedmodel_puller.storage.digest import tree_digest
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.storage.files import write_tree
from trainedmodel_puller.storage.paths import make_listing, parent_folders
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings, fsspec_schemes


def folders_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir()}


async def fetched(downloader: Downloader, text: str, folder: Path) -> Listing:
    uri = parse_uri(text)
    listing = await downloader.list(uri)
    await downloader.fetch(uri, listing, folder, lambda _: None)
    return listing


def put_marker(store: S3Store, bucket: str, key: str) -> None:
    """Make a folder as consoles do: an empty object whose key ends with a slash."""
    env = store.env()
    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=store.endpoint,
        region_name=env["AWS_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        config=botocore.config.Config(s3={"addressing_style": "path"}),
    )
    client.put_object(Bucket=bucket, Key=key, Body=b"")


@pytest.fixture(params=["obstore", "s3fs"])
async def any_s3(request: pytest.FixtureRequest, s3_env: S3Store) -> AsyncIterator[Downloader]:
    schemes = fsspec_schemes(["s3=fsspec"]) if request.param == "s3fs" else frozenset()
    settings = StorageSettings(fsspec_schemes=schemes, answer_timeout_s=60)
    async with StorageRegistry(settings) as registry, Downloader(registry) as downloader:
        yield downloader


@pytest.mark.integration
async def test_a_folder_that_a_console_made_in_a_bucket_arrives(
    any_s3: Downloader, s3_env: S3Store, tmp_path: Path
) -> None:
    s3_env.put("empties", "chain/config.pbtxt", b"platform: 'ensemble'")
    s3_env.put("empties", "chain/full/empty", b"")
    for marker in ("chain/", "chain/1/", "chain/full/", "chain/deep/er/"):
        put_marker(s3_env, "empties", marker)
    listing = await fetched(any_s3, "s3://empties/chain", tmp_path / "to")
    assert listing.folders == ("1", "deep/er")
    assert tree(tmp_path / "to") == {"config.pbtxt": b"platform: 'ensemble'", "full/empty": b""}
    assert folders_of(tmp_path / "to") == {"1", "full", "deep", "deep/er"}


@pytest.mark.integration
async def test_folders_alone_are_no_model(any_s3: Downloader, s3_env: S3Store) -> None:
    s3_env.put("empties", "other", b"")
    put_marker(s3_env, "empties", "void/1/")
    with pytest.raises(SourceFault) as caught:
        await any_s3.list(parse_uri("s3://empties/void"))
    assert caught.value.reason is Reason.OBJECT_NOT_FOUND


async def test_an_empty_folder_of_a_claim_arrives(tmp_path: Path) -> None:
    model = tmp_path / "claims" / "store" / "chain"
    (model / "1").mkdir(parents=True)
    (model / "linked").symlink_to("1", target_is_directory=True)
    (model / "config.pbtxt").write_bytes(b"x")
    settings = StorageSettings(pvc_root=tmp_path / "claims")
    async with StorageRegistry(settings) as registry, Downloader(registry) as downloader:
        await fetched(downloader, "pvc://store/chain", tmp_path / "to")
    assert folders_of(tmp_path / "to") == {"1", "linked"}


async def test_an_empty_folder_comes_and_goes_with_the_source(
    downloader: Downloader, memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    memory.pipe("/m/x", b"1")
    memory.makedirs("/m/1", exist_ok=True)
    first = await fetched(downloader, "memory://m", tmp_path / "to")
    assert folders_of(tmp_path / "to") == {"1"}
    memory.rmdir("/m/1")
    second = await fetched(downloader, "memory://m", tmp_path / "to")
    assert folders_of(tmp_path / "to") == set()
    assert first.fingerprint() != second.fingerprint()


def test_a_small_model_gets_its_empty_folders_too(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    found = write_tree(tmp_path / "to", {"a/x": [b"1"]}, ["1", "b/c"])
    assert set(found) == {"a/x"}
    assert folders_of(tmp_path / "to") == {"a", "1", "b", "b/c"}


async def test_a_folder_of_another_program_is_taken_only_with_its_empty_folders(
    tmp_path: Path,
) -> None:
    (tmp_path / "x").write_bytes(b"1")
    items = (SourceObject("x", 1),)
    digest = await tree_digest(tmp_path, Listing(items, is_single=False))
    listing = Listing(items, is_single=False, folders=("1", "a/b"))
    assert not await matches_listing(tmp_path, listing, digest)
    (tmp_path / "1").mkdir()
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert await matches_listing(tmp_path, listing, digest)
    assert not await matches_listing(tmp_path, Listing(items, is_single=False), digest)


def test_without_empty_folders_a_fingerprint_is_what_it_was() -> None:
    items = (SourceObject("a/x", 1, '"1"'), SourceObject("b", 2, None, "Monday"))
    fingerprint = Listing(items, is_single=False).fingerprint()
    assert fingerprint == "ef6b319370e03f0de8d2cac313ad0717ebf1afff705f5f205398710abf5543f5"


SEGMENTS = st.text("ab1", min_size=1, max_size=2)
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)


@given(st.sets(PATHS, min_size=1, max_size=6), st.lists(PATHS, max_size=6))
@example({"a"}, ["b/c", "b"])
def test_a_listing_names_just_the_folders_that_nothing_else_tells_of(
    files: set[str], folders: list[str]
) -> None:
    found = [SourceObject(path, 1) for path in files]
    wanted = set(folders) | {up for path in [*files, *folders] for up in parent_folders(path)}
    if files & wanted:
        with pytest.raises(SourceFault, match="is an object and also a folder"):
            make_listing(found, is_single=False, where="x", folders=folders)
        return
    listing = make_listing(found, is_single=False, where="x", folders=folders)
    told = {*listing.folders}
    for path in (*files, *listing.folders):
        told |= set(parent_folders(path))
    assert told == wanted
    assert not any(
        up in told & set(listing.folders) for path in files for up in parent_folders(path)
    )


@pytest.mark.parametrize("folder", ["../x", "a//b", "/a", "a/./b", "a\x00", "x" * 256])
def test_p9_a_folder_that_could_leave_the_model_is_refused(folder: str) -> None:
    with pytest.raises(SourceFault) as caught:
        make_listing([SourceObject("m", 1)], is_single=False, where="x", folders=[folder])
    assert caught.value.reason is Reason.UNSAFE_PATH


@pytest.mark.parametrize("kind", list(ArchiveKind))
async def test_an_empty_folder_of_an_archive_arrives(tmp_path: Path, kind: ArchiveKind) -> None:
    members = [folder("1"), file("config.pbtxt"), folder("a/b")]
    packed = await asyncio.to_thread(pack, kind, members)
    await unpacked(tmp_path, kind, packed)
    assert folders_of(tmp_path / "to") == {"1", "a", "a/b"}
