"""How often the server is looked at: its time is for its requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace

import pytest
from trainedmodel_puller.control import server_monitor
from trainedmodel_puller.control.server_monitor import ServerMonitor
from trainedmodel_puller.core.state import ServerState, Stage
from trainedmodel_puller.drivers.base import Observation, ServerSettings
from trainedmodel_puller.drivers.files import FilesOnly
from trainedmodel_puller.live_state import LiveState


class Slow(FilesOnly):
    """A server with an index that takes its time, and one model that is loading all along."""

    def __init__(self, root: Path) -> None:
        super().__init__(ServerSettings("", root, root))
        self.looks = 0

    async def ping(self) -> bool:
        return True

    async def observe(self, names: Collection[str]) -> Observation:
        self.looks += 1
        await asyncio.sleep(0.01)
        return Observation({"m": ServerState.LOADING})


async def looks_within(server: Slow, state: LiveState, seconds: float) -> int:
    task = asyncio.create_task(ServerMonitor(server, state, 0.01).run())
    await asyncio.sleep(seconds)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return server.looks


@pytest.mark.parametrize("is_ours", [True, False])
async def test_a_load_of_ours_does_not_have_the_index_read_again_and_again(
    tmp_path: Path, is_ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own moves are followed; ours end with the server's answer."""
    monkeypatch.setattr(server_monitor, "_MOVING_PERIOD_S", 0.02)
    state = LiveState(jitter=lambda: 0.0)
    if is_ours:
        state.server_actions["m"] = Stage.LOAD
    looks = await looks_within(Slow(tmp_path), state, 0.4)
    assert (looks <= 2) if is_ours else (looks >= 5)


class OnceSlow(FilesOnly):
    """A server whose second look takes long, as while it loads; then it loses its model."""

    def __init__(self, root: Path) -> None:
        super().__init__(ServerSettings("", root, root))
        self.looks = 0

    async def ping(self) -> bool:
        return True

    async def observe(self, names: Collection[str]) -> Observation:
        self.looks += 1
        await asyncio.sleep(4.0 if self.looks == 3 else 0.001)
        return Observation({"m": ServerState.READY} if self.looks <= 3 else {})


@pytest.mark.looptime
async def test_after_one_slow_look_a_model_that_has_gone_is_noticed_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(
        server_monitor, "time", SimpleNamespace(monotonic=loop.time, time=lambda: 1_800_000_000.0)
    )
    state = LiveState(jitter=lambda: 0.0)
    server = OnceSlow(tmp_path)
    task = asyncio.create_task(ServerMonitor(server, state, 1.0).run())
    while server.looks < 3:  # noqa: ASYNC110  (the time of this loop is virtual)
        await asyncio.sleep(0.1)
    began = loop.time()
    while "m" in state.server_models:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    took = loop.time() - began
    assert took < 10, f"noticed {took:.1f} s after it had gone; 4 s of that was the slow look"
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.looptime
async def test_slow_looks_do_not_get_in_the_way_of_our_own_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that reads a file a model to answer has less time to load; then it is looked at."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(
        server_monitor, "time", SimpleNamespace(monotonic=loop.time, time=lambda: 1_800_000_000.0)
    )

    class Busy(OnceSlow):
        async def observe(self, names: Collection[str]) -> Observation:
            self.looks += 1
            await asyncio.sleep(2.0)
            return Observation({"m": ServerState.READY})

    state = LiveState(jitter=lambda: 0.0)
    server = Busy(tmp_path)
    task = asyncio.create_task(ServerMonitor(server, state, 1.0).run())
    await asyncio.sleep(10)
    state.server_actions["other"] = Stage.LOAD
    before = server.looks
    await asyncio.sleep(60)
    meanwhile = server.looks - before
    state.server_actions.clear()
    before = server.looks
    await asyncio.sleep(60)
    assert meanwhile <= 5
    assert server.looks - before >= 9
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
