"""The watch over the configuration folder: each change wakes the loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from trainedmodel_devkit.projection import AtomicWriter
from trainedmodel_puller.control import config_watcher
from trainedmodel_puller.control.config_watcher import watch_folder


@contextlib.asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[asyncio.Event]:
    """Watch a folder; the bell has rung for the watch's own beginning, and is quiet again."""
    wake = asyncio.Event()
    task = asyncio.create_task(watch_folder(folder, wake))
    try:
        await is_woken(wake)
        wake.clear()
        yield wake
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def is_woken(wake: asyncio.Event) -> None:
    async with asyncio.timeout(60):
        await wake.wait()


async def is_watched_again(folder: Path, wake: asyncio.Event) -> None:
    """Wait until what stands under the name now is watched: a change of it rings."""
    await asyncio.sleep(0.2)
    wake.clear()
    in_place(folder)
    await is_woken(wake)


def kubelets_swap(folder: Path) -> None:
    AtomicWriter(folder).write({"a.json": b"{}", "b.json": b"{}"})


def in_place(folder: Path) -> None:
    (folder / "models.json").write_text("[]")


def removed(folder: Path) -> None:
    (folder / "old.json").unlink()


@pytest.mark.parametrize("change", [kubelets_swap, in_place, removed])
async def test_a_change_wakes_the_loop(tmp_path: Path, change: Callable[[Path], None]) -> None:
    (tmp_path / "old.json").touch()
    async with watched(tmp_path) as wake:
        await asyncio.to_thread(change, tmp_path)
        await is_woken(wake)


async def test_a_swap_rings_once_and_then_there_is_silence(tmp_path: Path) -> None:
    async with watched(tmp_path) as wake:
        await asyncio.to_thread(kubelets_swap, tmp_path)
        await is_woken(wake)
        await asyncio.sleep(0.05)
        wake.clear()
        await asyncio.sleep(0.2)
        assert not wake.is_set()


async def test_a_folder_that_is_not_there_yet_is_watched_when_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_watcher, "_RETRY_S", 0.02)
    folder = tmp_path / "config"
    async with watched(folder) as wake:
        folder.mkdir()
        await is_watched_again(folder, wake)


@pytest.mark.parametrize("how", ["removed", "moved"])
async def test_a_folder_that_another_takes_the_place_of_is_watched_again(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_watcher, "_RETRY_S", 0.02)
    folder = tmp_path / "config"
    folder.mkdir()
    async with watched(folder) as wake:
        if how == "removed":
            folder.rmdir()
        else:
            folder.rename(tmp_path / "aside")
        folder.mkdir()
        await is_watched_again(folder, wake)


async def test_the_watch_holds_no_file_when_it_has_ended(tmp_path: Path) -> None:
    def held() -> int:
        links = (path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
        return sum("inotify" in str(link) for link in links)

    before = held()
    async with watched(tmp_path):
        assert held() == before + 1
    assert held() == before
