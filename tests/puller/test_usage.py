"""The account of a limited volume: as du counts, and never below what was written."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from pathlib import Path

import pytest
from trainedmodel_puller import usage as module
from trainedmodel_puller.usage import VolumeUsage, allocated_bytes

KIB = 1024


def du(*folders: Path) -> int:
    words: list[str | Path] = ["du", "--summarize", "--total", "--block-size=1", *folders]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return int(told.splitlines()[-1].split()[0])


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    root = tmp_path / "volume"
    for folder in ("models/m/1", "state/staging", "state/trash"):
        (root / folder).mkdir(parents=True)
    (root / "models/m/1/weights.bin").write_bytes(os.urandom(300 * KIB))
    (root / "models/m/1/small").write_bytes(b"x")
    (root / "state/trash/old").write_bytes(os.urandom(50 * KIB))
    with (root / "state/staging/part").open("wb") as sparse:
        sparse.truncate(100 * KIB * KIB)
    os.link(root / "models/m/1/weights.bin", root / "state/staging/twin")
    (root / "models/link").symlink_to("m")
    (root / "models/outside").symlink_to("/usr")
    return root


def test_it_counts_what_du_counts(volume: Path) -> None:
    """Blocks, not sizes; each inode once; folders too; nothing through a link."""
    found, unread = allocated_bytes([volume])
    assert found == du(volume)
    assert not unread
    halves = [volume / "models", volume / "state"]
    assert allocated_bytes(halves)[0] == du(*halves)


def test_what_is_not_there_counts_as_nothing(tmp_path: Path) -> None:
    assert allocated_bytes([tmp_path / "gone"]) == (0, frozenset())


async def test_a_folder_that_cannot_be_read_is_told_and_the_rest_is_counted(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = str(volume / "models" / "m")
    whole = allocated_bytes([volume])[0]
    scandir = os.scandir

    def scan(folder: str) -> object:
        if folder == closed:
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)
    found, unread = allocated_bytes([volume])
    assert unread == {closed}
    assert 0 < found < whole


async def test_what_is_written_counts_at_once_and_what_is_deleted_when_it_is_measured(
    volume: Path,
) -> None:
    usage = VolumeUsage(2**30, [volume])
    assert usage.used is None
    assert usage.free_bytes(2**40) == 0
    await usage.measure()
    before = usage.used or 0
    assert before == du(volume)
    usage.note_written(7 * KIB)
    assert usage.used == before + 7 * KIB
    assert usage.free_bytes(2**40) == 2**30 - before - 7 * KIB
    (volume / "state/trash/old").unlink()
    assert usage.used == before + 7 * KIB
    await usage.measure()
    assert usage.used == du(volume) < before


async def test_what_is_written_during_a_measurement_is_not_lost(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = VolumeUsage(2**30, [volume])
    walking, may_end = threading.Event(), threading.Event()

    def walk(folders: tuple[Path, ...]) -> tuple[int, frozenset[str]]:
        walking.set()
        assert may_end.wait(30)
        return 1000, frozenset()

    monkeypatch.setattr(module, "allocated_bytes", walk)
    usage.note_written(5)
    measuring = asyncio.create_task(usage.measure())
    assert await asyncio.to_thread(walking.wait, 30)
    usage.note_written(70)
    may_end.set()
    await measuring
    assert usage.used == 1070


async def test_a_volume_that_cannot_be_read_is_not_an_empty_one(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = VolumeUsage(2**30, [volume])
    await usage.measure()
    before = usage.used
    usage.note_written(5)

    def refuse(folder: str) -> object:
        raise OSError(5, "Input/output error", folder)

    with monkeypatch.context() as broken:
        broken.setattr(os, "scandir", refuse)
        await usage.measure()
        assert usage.used == (before or 0) + 5
        unknown = VolumeUsage(2**30, [volume])
        await unknown.measure()
        assert unknown.free_bytes(2**40) == 0
    await usage.measure()
    assert usage.used == before


async def test_without_a_limit_nothing_is_counted(volume: Path) -> None:
    usage = VolumeUsage()
    usage.note_written(10**9)
    assert usage.used is None
    assert usage.free_bytes(123) == 123
    assert usage.free_bytes(None) is None


async def test_who_waits_for_room_is_told_after_each_measurement(volume: Path) -> None:
    usage = VolumeUsage(2**30, [volume])
    bell = asyncio.Event()
    running = asyncio.create_task(usage.run(lambda: True, bell))
    try:
        async with asyncio.timeout(30):
            await bell.wait()
        assert usage.used == du(volume)
    finally:
        running.cancel()
        await asyncio.wait([running])
