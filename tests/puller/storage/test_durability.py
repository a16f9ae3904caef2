"""What a fetch forces to the disk before it says that it is done."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import fsspec
import pytest
from trainedmodel_contract.uri import parse_uri
from trainedmodel_puller.errors import VolumeFault
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.volume.durable import sync_file_system

SMALL, MIDDLE, LARGE = b"s", b"m" * 300 * 1024, b"l" * 1024 * 1024


class AsyncVolume:
    """Notes what is forced to the disk, and forces it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: set[int] = set()
        self.flushes = 0
        real = os.fsync

        def fsync(descriptor: int) -> None:
            self.synced.add(os.fstat(descriptor).st_ino)
            real(descriptor)

        def flush(folder: Path) -> None:
            self.flushes += 1
            sync_file_system(folder)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr("trainedmodel_puller.storage.transfer.resume.sync_file_system", flush)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> AsyncVolume:
    return AsyncVolume(monkeypatch)


def inodes(folder: Path) -> set[int]:
    return {path.stat().st_ino for path in [folder, *folder.rglob("*")]}


async def test_each_of_a_few_files_and_their_folders_are_forced_to_the_disk(
    downloader: Downloader, memory: fsspec.AbstractFileSystem, tmp_path: Path, disk: AsyncVolume
) -> None:
    """Small ones, those of one stream, and those of many parts."""
    for name, content in {"a": SMALL, "b/c": MIDDLE, "b/d": LARGE}.items():
        memory.pipe(f"/m/{name}", content)
    uri = parse_uri("memory://m")
    await downloader.fetch(uri, await downloader.list(uri), tmp_path / "to", lambda _: None)
    assert inodes(tmp_path / "to") <= disk.synced
    assert disk.flushes == 0


async def test_many_files_are_forced_to_the_disk_at_one_go(
    downloader: Downloader, memory: fsspec.AbstractFileSystem, tmp_path: Path, disk: AsyncVolume
) -> None:
    for number in range(100):
        memory.pipe(f"/m/{number}", SMALL)
    uri = parse_uri("memory://m")
    await downloader.fetch(uri, await downloader.list(uri), tmp_path / "to", lambda _: None)
    assert disk.flushes == 1
    assert (tmp_path / "to").stat().st_ino in disk.synced
    assert len(disk.synced) < 10


async def test_what_an_earlier_fetch_left_is_forced_to_the_disk_as_well(
    downloader: Downloader, memory: fsspec.AbstractFileSystem, tmp_path: Path, disk: AsyncVolume
) -> None:
    """It may have been killed before its sync, or never meant to make one."""
    memory.pipe("/m/a", SMALL)
    memory.pipe("/m/b", LARGE)
    uri = parse_uri("memory://m")
    listing = await downloader.list(uri)
    await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None, durable=False)
    assert not disk.synced & inodes(tmp_path / "to")
    await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
    assert inodes(tmp_path / "to") <= disk.synced


async def test_a_disk_that_refuses_is_a_fault_and_the_next_fetch_forces_all_of_it(
    downloader: Downloader,
    memory: fsspec.AbstractFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(100):
        memory.pipe(f"/m/{number}", SMALL)
    uri = parse_uri("memory://m")
    listing = await downloader.list(uri)
    with monkeypatch.context() as refusing:

        def refuse(folder: Path) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))

        refusing.setattr("trainedmodel_puller.storage.transfer.resume.sync_file_system", refuse)
        with pytest.raises(VolumeFault):
            await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
    disk = AsyncVolume(monkeypatch)
    await downloader.fetch(uri, listing, tmp_path / "to", lambda _: None)
    assert disk.flushes >= 1
    assert len(list((tmp_path / "to").iterdir())) == 100
