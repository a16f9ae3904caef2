"""Room in a running puller: what is being deleted, and what is being written, is counted once.

The real loop, executor, fetcher and volume run in one event loop; deleting and writing wait until
the test lets them go on.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import pytest
from puller.test_faults_in_a_life import Life
from trainedmodel_puller.usage import VolumeUsage

pytestmark = pytest.mark.timeout(120)

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


async def test_a_model_in_memory_counts_through_measurements_until_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life, gate = begin_life(tmp_path), Gate()
    limit, size = 2**30, 700 * KIB
    life.told = dataclasses.replace(life.told, volume_limit=limit)
    life.state.usage = usage = VolumeUsage(limit, life.told.limited_folders)
    begin_light = life.volume.begin_light

    def slowly(name: str, revision: str) -> Path:
        gate.pass_through()
        return begin_light(name, revision)

    monkeypatch.setattr(life.volume, "begin_light", slowly)
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
