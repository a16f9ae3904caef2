"""How often the loop passes: as often as its passes are cheap, not as they are quick."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import cast

import pytest
from trainedmodel_puller.control.config_reader import read_signature
from trainedmodel_puller.control.executor import Executor
from trainedmodel_puller.control.loop import Loop
from trainedmodel_puller.core.state import DiskModel, Limits
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.volume.async_volume import AsyncVolume
from trainedmodel_puller.volume.layouts import InPlace
from trainedmodel_puller.volume.volume import Volume


class NoExecutor:
    """Carries nothing out: there is nothing to do."""

    def carry_out(self, plan: object) -> None:
        """Do nothing."""


async def passes_within(root: Path, seconds: float) -> int:
    """Run a loop whose bell never falls silent; return how often it passed."""
    (root / "config").mkdir()
    state = LiveState(jitter=lambda: 0.0)
    volume = Volume(root / "models", root / "state")
    volume.prepare()
    (root / "models" / "m").mkdir()
    state.disk = {"m": DiskModel("tm", published=frozenset({"1"}))}
    disk = AsyncVolume(volume, state)
    loop = Loop(root / "config", state, disk, Limits(), period_s=60)
    stop, passes = asyncio.Event(), 0

    def count() -> None:
        nonlocal passes
        passes += 1
        state.wake.set()

    loop.on_pass.append(count)
    task = asyncio.create_task(loop.run(cast("Executor", NoExecutor()), stop))
    await asyncio.sleep(seconds)
    stop.set()
    await task
    disk.close()
    return passes


def wait_in_vain() -> None:
    time.sleep(0.05)  # the thread waits, as for a disk or for the interpreter


def compute() -> None:
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass


@pytest.mark.parametrize(("job", "least", "most"), [(wait_in_vain, 8, 20), (compute, 1, 4)])
async def test_a_pass_is_paid_for_in_processor_time_not_in_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: object, least: int, most: int
) -> None:
    """A pass that waited beside a thousand downloads must not keep the news back for a second."""

    def read(folder: Path) -> object:
        assert callable(job)
        job()
        return read_signature(folder)

    monkeypatch.setattr("trainedmodel_puller.control.loop.read_signature", read)
    assert least <= await passes_within(tmp_path, 1.0) <= most


async def test_to_compare_what_lies_there_is_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ten thousand names it costs twice what their plan does."""
    expected = InPlace.expected

    def compare(served: InPlace, published: frozenset[str]) -> frozenset[str]:
        compute()
        return expected(served, published)

    monkeypatch.setattr(InPlace, "expected", compare)
    assert 1 <= await passes_within(tmp_path, 1.0) <= 4
