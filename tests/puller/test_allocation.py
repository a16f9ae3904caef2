"""What du counts is counted, and a tree that moves while it is counted is counted once."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path

import pytest
from trainedmodel_puller.usage.allocation import allocated_bytes
from trainedmodel_puller.volume.durable import exchange

pytestmark = pytest.mark.slow

KIB = 1024
Move = Callable[[Path], None]


def du(*folders: Path) -> int:
    words: list[str | Path] = ["du", "--summarize", "--total", "--block-size=1", *folders]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return int(told.splitlines()[-1].split()[0])


def write_tree(folder: Path, kib: int) -> Path:
    (folder / "inner" / "most").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(os.urandom(kib * KIB))
    (folder / "inner" / "most" / "more.bin").write_bytes(os.urandom(kib * KIB))
    return folder


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    root = tmp_path / "volume"
    for folder in ("models", "state/staging", "state/versions/m", "state/trash"):
        (root / folder).mkdir(parents=True)
    write_tree(root / "models" / "m", 100)
    write_tree(root / "state/versions/m/new", 300)
    write_tree(root / "state/staging/other@1", 500)
    for folder, _, _ in os.walk(root):
        os.utime(folder, (1, 1))  # all of it was made long ago
    return root


def seal(volume: Path) -> None:
    (volume / "state/staging/other@1").rename(volume / "models" / "other")


def swap(volume: Path) -> None:
    exchange(volume / "state/versions/m/new", volume / "models" / "m", volume / "state/trash")


def roll_back(volume: Path) -> None:
    (volume / "models/m").rename(volume / "state/versions/m/old")
    (volume / "state/versions/m/new").rename(volume / "models" / "m")


def name_otherwise(volume: Path) -> None:
    staging = volume / "state/staging"
    (staging / "other@1").rename(staging / "other@1.fitting")


def keep(volume: Path) -> None:
    (volume / "models/m").rename(volume / "state/versions/m/old")


class MetricsSnapshot(Enum):
    """When a tree moves: before a folder is opened, or between that and its listing."""

    BEFORE = auto()
    AMID = auto()


def listings(
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[int], None],
    snapshot: MetricsSnapshot = MetricsSnapshot.BEFORE,
) -> list[str]:
    """Call `act` with the number of each listing; return whose they were."""
    found: list[str] = []
    begin = os.open

    def note(folder: str) -> None:
        found.append(folder)
        act(len(found))

    def opening(path: str, flags: int) -> int:
        if snapshot is MetricsSnapshot.BEFORE:
            note(path)
        folder = begin(path, flags)
        if snapshot is MetricsSnapshot.AMID:
            note(path)
        return folder

    monkeypatch.setattr(os, "open", opening)
    return found


@pytest.mark.parametrize("move", [seal, swap, roll_back, name_otherwise, keep])
@pytest.mark.parametrize("order", [("models", "state"), ("state", "models")])
@pytest.mark.parametrize("snapshot", MetricsSnapshot)
def test_a_tree_that_moves_at_any_listing_is_counted_once(
    volume: Path,
    monkeypatch: pytest.MonkeyPatch,
    move: Move,
    order: tuple[str, ...],
    snapshot: MetricsSnapshot,
) -> None:
    pristine = volume.with_name("pristine")
    volume.rename(pristine)
    count = len(list(os.walk(pristine)))
    roots = [volume / name for name in order]
    for step in range(1, count):
        shutil.copytree(pristine, volume)  # keeps times

        def act(number: int, step: int = step) -> None:
            if number == step:
                move(volume)

        with monkeypatch.context() as patch:
            seen = listings(patch, act, snapshot)
            found, unread = allocated_bytes(roots)
        assert not unread
        assert found == du(*roots), f"moved {snapshot.name} the listing of {seen[step - 1]}"
        shutil.rmtree(volume)


def test_a_tree_that_moves_twice_is_counted_once(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed while the sealed ones were listed, served while those were listed again."""
    staged, sealed = volume / "state/staging/other@1", volume / "state/versions/m/other"
    steps = [(str(volume / "state/staging"), staged, sealed)]
    steps += [(str(volume / "state/versions/m"), sealed, volume / "models" / "other")]
    looks: dict[str, int] = {}

    def act(_: int) -> None:
        folder = seen[-1]
        looks[folder] = looks.get(folder, 0) + 1
        for number, (before, source, target) in enumerate(steps, 1):
            if folder == before and looks[folder] == number:
                source.rename(target)

    seen = listings(monkeypatch, act)
    folders = [volume / "state/staging", volume / "models", volume / "state/versions"]
    found, _ = allocated_bytes(folders)
    assert (volume / "models" / "other").exists(), "it has moved twice"
    assert found == du(*folders)


def test_a_volume_at_rest_is_listed_once(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = listings(monkeypatch, lambda _: None)
    allocated_bytes([volume])
    assert sorted(seen) == sorted(set(seen))


def test_folders_that_change_all_the_time_are_listed_a_few_times_and_no_more(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(number: int) -> None:
        (volume / "models" / f"m{number}").mkdir()

    seen = listings(monkeypatch, act)
    allocated_bytes([volume])
    assert seen.count(str(volume / "models")) <= 3
