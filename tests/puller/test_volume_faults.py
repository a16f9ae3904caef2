"""Any error of the system, at any step: nothing partial is served, and the next try converges."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from puller.test_volume_kills import first, leave, roll_back, unpack, update
from support.puller.volume_faults import CODES, FAULTS
from support.puller.volume_steps import beside, load, lora_volume, make_volume, seal, served, shown
from trainedmodel_puller.core.state import DiskModel
from trainedmodel_puller.errors import SettingsError, VolumeFault
from trainedmodel_puller.volume.volume import Volume

pytestmark = pytest.mark.slow

Way = tuple[Callable[[Volume], None], str | None, set[str]]
WAYS: dict[str, Way] = {
    "first": (first, None, {"1"}),
    "unpack": (unpack, None, {"1"}),
    "update": (update, "1", {"2"}),
    "roll back": (roll_back, "1", {"1"}),
    "leave": (leave, "1", set()),
}
#: More steps than any way has.
MOST_STEPS = 400


def replan(volume: Volume, wanted: set[str]) -> None:
    """Do what the plan does in the same life, from whatever a look says."""
    disk = volume.scan_one("m")
    if not wanted:
        volume.forget_loaded("m")
        volume.remove("m")
        return
    (revision,) = wanted
    if revision not in disk.trees:
        seal(volume, revision)
    volume.publish("m", revision)
    volume.mark_loaded("m", "tm", revision)
    volume.remove_versions("m", frozenset(beside(volume)))
    if volume.scan_one("m").is_staged:
        volume.remove_staging("m")


@pytest.mark.parametrize("shift", range(len(CODES)))
@pytest.mark.parametrize("way", WAYS)
def test_an_error_at_any_step_shows_nothing_partial_and_the_next_try_converges(
    way: str, shift: int, tmp_path: Path
) -> None:
    """Each step is refused with one of the errors; all of them, over the cases of `shift`."""
    act, before, after = WAYS[way]
    for step in range(MOST_STEPS):
        root = tmp_path / "volume"
        volume = make_volume(root)
        if before:
            load(volume, before)
        fault = FAULTS.armed(root, step, CODES[(step + shift) % len(CODES)])
        with fault, contextlib.suppress(OSError, VolumeFault):
            act(volume)
        where = FAULTS.refused
        assert len(served(volume)) <= 1, f"files of two revisions after {where}"
        if before and after:
            assert served(volume), f"nothing is served after {where}"
        replan(volume, after)
        assert served(volume) == after, where
        assert beside(volume) == set(), where
        volume.trash.empty()
        assert list((root / "state" / "trash").iterdir()) == [], where
        shutil.rmtree(root)
        if not where:
            assert step > 8, "so few steps cannot be all of it"
            return
    pytest.fail("the way never came to its end")


@pytest.mark.parametrize("way", ["first", "update", "leave"])
def test_the_same_with_a_folder_a_revision(way: str, tmp_path: Path) -> None:
    act, before, after = WAYS[way]
    for step in range(MOST_STEPS):
        root = tmp_path / "volume"
        volume = lora_volume(root)
        if before:
            load(volume, before)
        fault = FAULTS.armed(root, step, CODES[step % len(CODES)])
        with fault, contextlib.suppress(OSError, VolumeFault):
            act(volume)
        where = FAULTS.refused
        shown(volume)
        replan(volume, after)
        volume.remove_versions("m", frozenset(volume.scan_one("m").trees) - after)
        assert shown(volume) == {f"r{revision}" for revision in after}, where
        shutil.rmtree(root)
        if not where:
            return
    pytest.fail("the way never came to its end")


# that a file is not there cannot be told from a lie: then it is fetched again
@pytest.mark.parametrize("code", sorted({*CODES} - {errno.ENOENT}))
def test_an_error_at_any_step_of_a_start_loses_no_model(code: int, tmp_path: Path) -> None:
    """A start either refuses in words, or is tried again, or knows of each model at least."""
    root = tmp_path / "volume"
    volume = make_volume(root)
    load(volume, "1")
    seal(volume, "2")
    load(volume, "1", name="n")
    (root / "state" / "trash" / "half").mkdir()
    whole = volume.scan()
    for step in range(MOST_STEPS):
        found: dict[str, DiskModel] = {}
        with FAULTS.armed(root, step, code), contextlib.suppress(OSError, SettingsError):
            volume.prepare()
            found = volume.scan()
        where = FAULTS.refused
        for name, disk in found.items():
            assert disk.trees.keys() == whole[name].trees.keys() or disk.doubt, where
        assert not found or found.keys() == whole.keys(), where
        volume.prepare()
        assert volume.scan() == whole, where
        if not where:
            return
    pytest.fail("the start never came to its end")
