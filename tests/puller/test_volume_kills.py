"""P7 on a real file system: a kill before any step shows nothing partial and converges."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.puller.volume_steps import (
    FILES,
    beside,
    load,
    lora_volume,
    make_volume,
    seal,
    served,
    shown,
)
from trainedmodel_puller.core.state import DiskModel
from trainedmodel_puller.volume import durable
from trainedmodel_puller.volume import layouts as trees_module
from trainedmodel_puller.volume import staging as staged_module
from trainedmodel_puller.volume.volume import Volume

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """Stands for kill -9: no handler of the code under test sees it."""


class _Countdown:
    """Raises Killed before the n-th step that changes the disk."""

    left: int | None = None
    writes = frozenset(
        {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate"}
    )

    def step(self) -> None:
        if self.left is None:
            return
        if self.left == 0:
            raise Killed
        self.left -= 1

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.left is None:
            return
        flags = arguments[2] if event == "open" and not isinstance(arguments[0], int) else 0
        if event in self.writes or (isinstance(flags, int) and flags & os.O_WRONLY):
            self.step()


COUNTDOWN = _Countdown()
sys.addaudithook(COUNTDOWN.hook)


@contextmanager
def killed_after(steps: int) -> Iterator[None]:
    COUNTDOWN.left = steps
    try:
        yield
    finally:
        COUNTDOWN.left = None


def update(volume: Volume) -> None:
    seal(volume, "2")
    volume.publish("m", "2")
    volume.mark_loaded("m", "tm", "2")
    volume.remove_versions("m", frozenset({"1"}))


def roll_back(volume: Volume) -> None:
    seal(volume, "2")
    volume.publish("m", "2")
    volume.publish("m", "1")
    volume.remove_versions("m", frozenset({"2"}))


def first(volume: Volume) -> None:
    load(volume, "1")


def unpack(volume: Volume) -> None:
    begun = volume.begin("m", "1", "f1")
    if not begun.is_whole:
        begun.folder.mkdir(exist_ok=True)
        (begun.folder / "archive").write_text("packed")
        target = volume.begin_unpacking("m", "1")
        for file in FILES:
            path = target / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("1")
        volume.end_unpacking("m", "1")
    volume.begin_fitting("m", "1", "f1", is_large=True)
    volume.seal("m", "1", {"id": "tm", "fingerprint": "f1"})
    volume.publish("m", "1")
    volume.mark_loaded("m", "tm", "1")


def leave(volume: Volume) -> None:
    volume.forget_loaded("m")
    volume.remove("m")


WAYS: dict[str, tuple[Callable[[Volume], None], str | None, set[str]]] = {
    "first": (first, None, {"1"}),
    "unpack": (unpack, None, {"1"}),
    "update": (update, "1", {"2"}),
    "roll back": (roll_back, "1", {"1"}),
    "leave": (leave, "1", set()),
}


def converge(volume: Volume, wanted: set[str]) -> None:
    """Do what the plan does after a restart, from whatever `scan` says."""
    disk = volume.scan().get("m", DiskModel())
    if not wanted:
        volume.remove("m")
        return
    (revision,) = wanted
    if revision not in disk.trees:
        seal(volume, revision)
    volume.publish("m", revision)
    volume.mark_loaded("m", "tm", revision)
    volume.remove_versions("m", frozenset(beside(volume)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("can_exchange", [True, False])
def test_p7_a_kill_before_any_step_shows_nothing_partial_and_converges(
    way: str, can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_exchange = durable.exchange

    def exchange(one: Path, other: Path, trash: Path) -> None:
        if can_exchange:
            COUNTDOWN.step()
            real_exchange(one, other, trash)
            return
        aside = trash / "aside"
        other.rename(aside)
        one.rename(other)
        aside.rename(one)

    monkeypatch.setattr(trees_module, "exchange", exchange)
    monkeypatch.setattr(staged_module, "exchange", exchange)
    act, before, after = WAYS[way]
    kills = 0
    for steps in range(200):
        root = tmp_path / str(steps)
        volume = make_volume(root)
        if before:
            load(volume, before)
        try:
            with killed_after(steps):
                act(volume)
        except Killed:
            kills += 1
        else:
            break
        seen = served(volume)
        assert len(seen) <= 1, f"mixed files after {steps} steps"
        if before and after and can_exchange:
            assert seen, f"nothing served after {steps} steps"
        reborn = make_volume(root)
        converge(reborn, after)
        assert served(reborn) == after, f"not converged after {steps} steps"
        reborn.scan()
        assert beside(reborn) == set()
        assert list((root / "state" / "trash").iterdir()) == []
    else:
        pytest.fail("the way never came to its end")
    assert kills >= 6
    assert served(volume) == after


@pytest.mark.parametrize("way", ["first", "update", "leave"])
def test_p7_it_converges_with_a_folder_a_revision_as_well(way: str, tmp_path: Path) -> None:
    act, before, after = WAYS[way]
    for steps in range(200):
        root = tmp_path / str(steps)
        volume = lora_volume(root)
        if before:
            load(volume, before)
        try:
            with killed_after(steps):
                act(volume)
        except Killed:
            pass
        else:
            break
        if before and after:
            assert f"r{before}" in shown(volume) or "r2" in shown(volume)
        reborn = lora_volume(root)
        converge(reborn, after)
        reborn.remove_versions("m", frozenset(reborn.scan_one("m").trees) - after)
        assert shown(reborn) == {f"r{revision}" for revision in after}
        assert list((root / "state" / "trash").iterdir()) == []
    else:
        pytest.fail("the way never came to its end")
    assert steps >= 4
