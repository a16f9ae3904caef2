"""Room in a running puller: what is being deleted, and what is being written, is counted once.

The real loop, executor, fetcher and volume run in one event loop; deleting and writing wait until
the test lets them go on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path

import pytest
from puller.test_faults_in_a_life import Life
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.core.state import Limits
from trainedmodel_puller.usage.volume_usage import VolumeUsage

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

KIB = 1024


def begin_life(root: Path) -> Life:
    """Return a puller on a volume of its own, to be run."""
    for folder in ("config", "source"):
        (root / folder).mkdir()
    life = Life(root)
    life.volume.prepare()
    return life


def put(root: Path, name: str, revision: str, size: int) -> None:
    """Want a revision of a model, of one file of so many bytes."""
    source = root / "source" / f"{name}-{revision}"
    source.mkdir(parents=True)
    (source / "weights.bin").write_bytes(bytes(size))
    document = {"name": name, "storageUri": f"file://{source}", "revision": revision}
    temporary = root / f"{name}.tmp"
    temporary.write_text(json.dumps(document))
    temporary.rename(root / "config" / f"{name}.json")


def sizes_below(folder: Path) -> int:
    """Add up the sizes of files; what is deleted meanwhile counts for nothing."""
    total = 0
    for at, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(os.path.join(at, file)).st_size
            except FileNotFoundError:
                continue
    return total


def used(usage: VolumeUsage) -> int:
    """Return what a volume that was measured holds."""
    assert usage.used is not None
    return usage.used


class Gate:
    """Holds threads up."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.is_reached = threading.Event()

    def pass_through(self) -> None:
        """Wait until it is opened."""
        self.is_reached.set()
        assert self._open.wait(60)

    def open(self) -> None:
        """Let all go on."""
        self._open.set()


async def until_loaded(life: Life, name: str, revision: str) -> None:
    state = life.state
    await life.until(
        lambda: name in state.disk and state.disk[name].loaded == revision, f"{name} at {revision}"
    )


async def test_while_one_removal_takes_long_no_other_revision_goes_for_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`y` and `x` are enough. Of the two, `x` is still being deleted when `y` has gone."""
    life, gate = begin_life(tmp_path), Gate()
    volume, state = life.volume, life.state
    capacity = 2**30
    discard, remove_versions = volume.trash.discard, volume.remove_versions

    def slowly(path: Path) -> None:
        if path.parent.name == "x":
            gate.pass_through()
        discard(path)

    removed: list[str] = []

    def noting(name: str, revisions: frozenset[str]) -> None:
        removed.append(name)
        remove_versions(name, revisions)

    monkeypatch.setattr(volume, "free_bytes", lambda: capacity - sizes_below(tmp_path / "volume"))
    async with life.lived():
        for revision, size in (("old", 8 * KIB), ("new", 1)):
            for name in "yxz":
                put(tmp_path, name, revision, size)
                await until_loaded(life, name, revision)
        monkeypatch.setattr(volume.trash, "discard", slowly)
        monkeypatch.setattr(volume, "remove_versions", noting)
        capacity = sizes_below(tmp_path / "volume") + Limits().reserve_bytes + 8 * KIB
        put(tmp_path, "large", "1", 20 * KIB)
        await life.until(gate.is_reached.is_set, "a removal")
        await life.until(lambda: "old" not in state.disk["y"].trees, "the other to end")
        passes = 0

        def count() -> None:
            nonlocal passes
            passes += 1

        life.loop.on_pass.append(count)
        await life.until(lambda: passes > 5, "a few passes")
        assert state.failures["large", "1"].reason is Reason.INSUFFICIENT_DISK
        gate.open()
        await until_loaded(life, "large", "1")
    assert sorted(removed) == ["x", "y"]
    assert set(state.disk["z"].trees) == {"old", "new"}


async def test_a_model_in_memory_counts_through_measurements_until_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life, gate = begin_life(tmp_path), Gate()
    limit, size = 2**30, 700 * KIB
    life.told = dataclasses.replace(life.told, volume_limit=limit)
    life.state.usage = usage = VolumeUsage(limit, life.told.limited_folders)
    begin_small = life.volume.begin_small

    def slowly(name: str, revision: str) -> Path:
        gate.pass_through()
        return begin_small(name, revision)

    monkeypatch.setattr(life.volume, "begin_small", slowly)
    async with life.lived():
        await usage.measure()
        before = used(usage)
        put(tmp_path, "m", "1", size)
        await life.until(gate.is_reached.is_set, "it to be read")
        for _ in range(3):
            await usage.measure()
            assert used(usage) >= before + size
        gate.open()
        await life.until(lambda: not life.state.transfers, "the end of its transfer")
        assert used(usage) >= before + size
        await usage.measure()
        assert before + size <= used(usage) < before + 2 * size
