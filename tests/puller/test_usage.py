"""The account of a limited volume: as du counts, and never below what was written."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from trainedmodel_puller.usage import volume_usage as module
from trainedmodel_puller.usage.allocation import allocated_bytes
from trainedmodel_puller.usage.volume_usage import VolumeUsage

pytestmark = pytest.mark.slow

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
    begin = os.open

    def opening(folder: str, flags: int) -> int:
        if folder == closed:
            raise PermissionError(13, "Permission denied", folder)
        return begin(folder, flags)

    monkeypatch.setattr(os, "open", opening)
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


class Writers:
    """Writes models in virtual time, and measures; after each step the account is compared.

    A model is read into memory, waits for the disk, is written, and its transfer ends. A walk
    takes time, and sees of each file what is there at some instant of it.
    """

    def __init__(self, usage: VolumeUsage, jitter: random.Random) -> None:
        self.usage = usage
        self.in_memory = 0
        self.files: dict[str, int] = {}
        self._jitter = jitter

    async def pause(self, most_s: float) -> None:
        await asyncio.sleep(self._jitter.uniform(0, most_s))

    async def write(self, name: str) -> None:
        await self.pause(10)
        size = self._jitter.randrange(1, 1000)
        self.in_memory += size
        self.usage.hold(name, size)
        await self.pause(3)
        self.in_memory -= size
        self.files[name] = size
        await self.pause(1)
        self.usage.settle(name)

    async def stream(self, name: str) -> None:
        await self.pause(10)
        for _ in range(10):
            await self.pause(1)
            self.files[name] = self.files.get(name, 0) + 100
            self.usage.note_written(100)

    async def walk(self, _: Callable[..., object], folders: object) -> tuple[int, frozenset[str]]:
        begun, found = dict(self.files), 0
        for name in sorted(begun):
            await self.pause(0.02)
            found += self.files[name]
        return found, frozenset()

    async def measure(self) -> None:
        while True:
            await self.usage.measure()
            await self.pause(0.5)

    async def compare(self) -> None:
        while True:
            used = self.usage.used
            assert used is not None
            assert used >= sum(self.files.values()) + self.in_memory
            await asyncio.sleep(0.01)


@pytest.mark.looptime
@pytest.mark.parametrize("seed", range(20))
async def test_the_account_is_never_below_what_is_there_and_on_its_way(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    usage = VolumeUsage(2**30, [Path("/nowhere")])
    writers = Writers(usage, random.Random(seed))
    monkeypatch.setattr(asyncio, "to_thread", writers.walk)
    await usage.measure()
    others = [asyncio.create_task(job) for job in (writers.measure(), writers.compare())]
    job = [writers.write(f"m{number}") for number in range(40)]
    await asyncio.gather(*job, writers.stream("s0"), writers.stream("s1"))
    for task in others:
        assert not task.done(), task.exception()
        task.cancel()
    await asyncio.wait(others)
    await usage.measure()
    assert usage.used == sum(writers.files.values()), "and exact when all is written"


async def test_what_is_about_to_be_written_outlasts_measurements_until_it_is(
    volume: Path,
) -> None:
    usage = VolumeUsage(2**30, [volume])
    await usage.measure()
    before = usage.used or 0
    usage.hold("m", 40 * KIB)
    await usage.measure()
    await usage.measure()
    assert usage.used == before + 40 * KIB
    (volume / "state/staging/new").write_bytes(os.urandom(40 * KIB))
    usage.settle("m")
    assert usage.used == before + 40 * KIB
    await usage.measure()
    assert usage.used == du(volume) == before + 40 * KIB


async def test_what_an_unpacking_has_written_is_not_counted_twice(volume: Path) -> None:
    """It takes room piece by piece; of each, what is left is not written when it takes more."""
    usage = VolumeUsage(2**30, [volume])
    await usage.measure()
    before = usage.used or 0
    usage.hold("m", 100)
    usage.settle("m", but=30)
    usage.hold("m", 100)
    assert usage.used == before + 200
    await usage.measure()
    assert usage.used == before + 130
    usage.settle("m")
    await usage.measure()
    assert usage.used == before


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
    usage.hold("m", 10**9)
    usage.settle("m")
    assert usage.used is None
    assert usage.free_bytes(123) == 123
    assert usage.free_bytes(None) is None


async def test_who_waits_for_room_is_told_after_each_measurement(volume: Path) -> None:
    usage = VolumeUsage(2**30, [volume])
    wake = asyncio.Event()
    running = asyncio.create_task(usage.run(lambda: True, wake))
    try:
        async with asyncio.timeout(30):
            await wake.wait()
        assert usage.used == du(volume)
    finally:
        running.cancel()
        await asyncio.wait([running])
