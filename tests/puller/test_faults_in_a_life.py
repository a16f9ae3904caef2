"""Any error of the system at any step of a life: the process lives, and in the end all is well.

The real loop, executor, fetcher and volume run here in one event loop, without a model server
(`--server none`). Errors are only waited out for milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from puller.in_process import settings
from support.puller.volume_faults import CODES, FAULTS
from trainedmodel_devkit.waiting import until
from trainedmodel_puller.app import make_limits
from trainedmodel_puller.control.executor import Executor
from trainedmodel_puller.control.loop import Loop
from trainedmodel_puller.control.server_monitor import ServerMonitor
from trainedmodel_puller.drivers.base import ServerSettings
from trainedmodel_puller.drivers.files import FilesOnly
from trainedmodel_puller.fetch.fetcher import Fetcher
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.reporting.startup_endpoints import EndpointRouter
from trainedmodel_puller.startup import until_done
from trainedmodel_puller.storage.download import Downloader, DownloadLimits
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.volume.async_volume import AsyncVolume
from trainedmodel_puller.volume.identity import IDENTITY_FILE
from trainedmodel_puller.volume.volume import Volume

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

MOST_STEPS = 400


class Life:
    """One life of a puller, on folders that outlive it."""

    def __init__(self, root: Path) -> None:
        self.told = settings(root, 0)
        self.state = LiveState(jitter=lambda: 0.0)
        self.volume = Volume(self.told.model_dir, self.told.state_dir)

    @contextlib.asynccontextmanager
    async def lived(self) -> AsyncIterator[None]:
        """Run until the block ends; what ends the process fails the test."""
        told, state, stop = self.told, self.state, asyncio.Event()
        folder = told.model_dir
        server = FilesOnly(ServerSettings(url="", model_dir=folder, served_dir=folder))
        disk = AsyncVolume(self.volume, state)
        registry = StorageRegistry(told.storage)
        downloader = Downloader(registry, DownloadLimits(max_connections=4, stall_timeout_s=5))
        limits = make_limits(told, server)
        self.loop = Loop(told.config_dir, state, disk, limits, period_s=0.03)
        await until_done(self.loop.restore, EndpointRouter(), stop)
        try:
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(ServerMonitor(server, state, 0.03).run())
                fetcher = Fetcher(state, disk, downloader, server, limits)
                executor = Executor(
                    state,
                    disk,
                    fetcher,
                    server,
                    tasks,
                    served_dir=told.model_dir,
                    replan=self.loop.replan,
                )
                running = tasks.create_task(self.loop.run(executor, stop))
                yield
                stop.set()
                await running
                watch.cancel()
                await executor.drain(3.0)
        finally:
            await downloader.close()
            await registry.close()
            disk.close()
            self.loop.close()

    def is_done(self, revision: str | None) -> bool:
        """Tell whether all is as it is wanted, with nothing under way or left to tidy."""
        held, state = self.state.disk.get("m"), self.state
        if state.transfers or state.server_actions or state.removals or state.volume_doubt:
            return False
        if revision is None:
            return held is None and "m" not in self.loop.models
        if held is None or held.doubt is not None or held.is_staged or held.trying:
            return False
        return held.loaded == revision and held.published == {revision}

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition."""
        await until(
            condition, what=what, every_s=0.005, details=lambda: f"{self.state}\n{self.loop.plan}"
        )


def want(root: Path, revision: str | None) -> None:
    """Desire a revision of the model, or none."""
    entry = root / "config" / "m.json"
    if revision is None:
        entry.unlink()
        return
    source = root / "source" / revision
    document = {"name": "m", "storageUri": f"file://{source}", "revision": revision}
    temporary = root / "m.tmp"
    temporary.write_text(json.dumps(document))
    temporary.rename(entry)


def make_world(root: Path) -> None:
    """Make the folders and two revisions of a model."""
    (root / "config").mkdir(parents=True)
    for revision in ("r1", "r2"):
        for file in ("weights", "sub/config"):
            path = root / "source" / revision / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(revision)


def served(root: Path) -> str | None:
    """Return the revision whose files are served: whole, and of one revision.

    The folder is opened once: it may be exchanged meanwhile, and then deleted.
    """
    while True:
        try:
            folder = os.open(root / "volume" / "models" / "m", os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            at = f"/proc/self/fd/{folder}"
            told = json.loads(Path(at, IDENTITY_FILE).read_text())["revision"]
            found = {Path(at, file).read_text() for file in ("weights", "sub/config")}
        except FileNotFoundError:
            assert not os.path.samestat(os.fstat(folder), _stat(root)), "a part of the files"
            continue
        finally:
            os.close(folder)
        assert found == {told}
        return str(told)


def _stat(root: Path) -> os.stat_result:
    try:
        return os.stat(root / "volume" / "models" / "m")
    except FileNotFoundError:
        return os.stat(root)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainedmodel_puller.live_state.backoff_s", lambda count, jitter: 0.01)
    monkeypatch.setattr("trainedmodel_puller.startup._PERIOD_S", 0.01)
    monkeypatch.setattr("trainedmodel_puller.control.loop._TRASH_S", 0.05)
    monkeypatch.setattr("trainedmodel_puller.control.loop._FULL_READ_S", 0.1)

    def crash(_: Executor, key: object, __: object, error: Exception, ___: object) -> None:
        pytest.fail(f"{key} is told as InternalError: {error!r}")

    monkeypatch.setattr(Executor, "_crash", crash)


WAYS: dict[str, tuple[str | None, str | None, set[str | None]]] = {
    "first load": (None, "r1", {None, "r1"}),
    "update": ("r1", "r2", {"r1", "r2"}),
    "removal": ("r1", None, {"r1", None}),
}


async def go_the_way(root: Path, way: str, step: int, code: int) -> list[str]:
    """Live once, with an error at a step; return what was refused."""
    before, after, allowed = WAYS[way]
    make_world(root)
    life = Life(root)
    life.volume.prepare()
    async with life.lived():
        if before is not None:
            want(root, before)
            await life.until(lambda: life.is_done(before), "the way's beginning")
        with FAULTS.armed(root / "volume", step, code, times=3):
            want(root, after)
            done = lambda: life.is_done(after) or FAULTS.count > step + 60  # noqa: E731
            await life.until(done, f"a way on from {step}")
            refused = FAULTS.refused
        assert served(root) in allowed, refused
        # A folder that could not be read may be taken for another's until the next full look.
        is_over = lambda: life.is_done(after) and served(root) == after  # noqa: E731
        await life.until(is_over, f"the end after {refused}")
        trash = root / "volume" / "state" / "trash"
        await life.until(lambda: not any(trash.iterdir()), f"an empty trash after {refused}")
    return refused


@pytest.mark.parametrize("shift", range(3))
@pytest.mark.parametrize("way", WAYS)
async def test_an_error_at_any_step_ends_no_process_and_leaves_nothing_wrong(
    way: str, shift: int, tmp_path: Path
) -> None:
    """Three steps are refused at a time, with one error; the passes of the loop are among them."""
    for step in range(shift, MOST_STEPS, 3):
        root = tmp_path / str(step)
        refused = await go_the_way(root, way, step, CODES[(step // 3 + shift) % len(CODES)])
        shutil.rmtree(root)
        if not refused:
            assert step > 20, "so few steps cannot be all of it"
            return
    pytest.fail("the way never came to its end")
