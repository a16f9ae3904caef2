"""Group commit: batches in which each job succeeds or fails alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.errors import VolumeFault
from trainedmodel_puller.volume import group_commit
from trainedmodel_puller.volume.durable import sync_file_system, sync_tree
from trainedmodel_puller.volume.group_commit import GroupCommit


@pytest.fixture
async def batches(tmp_path: Path) -> AsyncIterator[GroupCommit]:
    made = GroupCommit(tmp_path)
    yield made
    made.close()


def write(folder: Path, name: str, said: list[str]) -> Path:
    said.append(f"write {name}")
    tree = folder / name
    tree.mkdir()
    (tree / "file").write_text(name)
    return tree


def commit(name: str, said: list[str], tree: Path) -> bool:
    assert tree.name == name
    said.append(f"commit {name}")
    return True


async def test_one_alone_is_written_and_committed(batches: GroupCommit, tmp_path: Path) -> None:
    said: list[str] = []
    assert await batches.run(partial(write, tmp_path, "a", said), partial(commit, "a", said))
    assert said == ["write a", "commit a"]


@pytest.mark.parametrize("count", [3, 20])
async def test_what_comes_while_a_batch_is_under_way_is_the_next_batch(
    batches: GroupCommit, tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    go = threading.Event()

    def slow() -> None:
        assert go.wait(10)

    def noted(folder: Path) -> None:
        said.append("sync")

    monkeypatch.setattr(group_commit, "sync_file_system", noted)
    names = [f"m{i:02}" for i in range(count)]
    async with asyncio.TaskGroup() as group:
        group.create_task(batches.run(slow, partial(commit, "never", said)))
        await asyncio.sleep(0)
        for name in names:
            job = batches.run(partial(write, tmp_path, name, said), partial(commit, name, said))
            group.create_task(job)
        await asyncio.sleep(0)
        go.set()
    syncs = ["sync"] if count >= 6 else []
    assert said == [f"write {n}" for n in names] + syncs + [f"commit {n}" for n in names]


async def test_the_whole_file_system_can_be_flushed(tmp_path: Path) -> None:
    await asyncio.to_thread(sync_file_system, tmp_path)
    with pytest.raises(FileNotFoundError):
        await asyncio.to_thread(sync_file_system, tmp_path / "nowhere")


async def test_one_that_fails_is_not_committed_and_hurts_no_other(
    batches: GroupCommit, tmp_path: Path
) -> None:
    said: list[str] = []

    def refuse() -> Path:
        raise VolumeFault(Reason.INSUFFICIENT_DISK, "full")

    bad = batches.run(refuse, partial(commit, "bad", said))
    good = batches.run(partial(write, tmp_path, "good", said), partial(commit, "good", said))
    results = await asyncio.gather(bad, good, return_exceptions=True)
    assert isinstance(results[0], VolumeFault)
    assert results[1] is True
    assert "commit bad" not in said


async def test_what_is_no_tree_is_not_committed(batches: GroupCommit) -> None:
    said: list[str] = []
    assert await batches.run(lambda: None, partial(commit, "a", said)) is None
    assert said == []


async def test_who_is_cancelled_still_waits_until_nothing_writes_any_more(
    batches: GroupCommit, tmp_path: Path
) -> None:
    said: list[str] = []
    go, began = threading.Event(), threading.Event()

    def slow() -> Path:
        began.set()
        assert go.wait(10)
        return write(tmp_path, "a", said)

    task = asyncio.create_task(batches.run(slow, partial(commit, "a", said)))
    await asyncio.sleep(0)
    assert await asyncio.to_thread(began.wait, 10)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert said == ["write a", "commit a"]


async def test_while_one_batch_is_forced_to_the_disk_the_next_is_written(
    batches: GroupCommit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    is_written = threading.Event()

    def patient(_: Path, *, with_files: bool) -> None:
        assert is_written.wait(10), "the second waited for the disk"

    def second() -> Path:
        tree = write(tmp_path, "b", said)
        is_written.set()
        return tree

    monkeypatch.setattr(group_commit, "sync_tree", patient)
    async with asyncio.TaskGroup() as group:
        first = partial(write, tmp_path, "a", said)
        group.create_task(batches.run(first, partial(commit, "a", said)))
        await asyncio.sleep(0.05)
        group.create_task(batches.run(second, partial(commit, "b", said)))
    assert said == ["write a", "write b", "commit a", "commit b"]


async def test_a_disk_that_refuses_fails_the_batch_it_was_asked_for_and_no_other(
    batches: GroupCommit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def refuse(tree: Path, *, with_files: bool) -> None:
        if tree.name == "a":
            raise OSError(5, "Input/output error", str(tree))
        sync_tree(tree, with_files=with_files)

    monkeypatch.setattr(group_commit, "sync_tree", refuse)
    jobs = [
        batches.run(partial(write, tmp_path, name, said), partial(commit, name, said))
        for name in ("a", "b")
    ]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(results[0], OSError)
    assert results[1] is True
    assert "commit a" not in said
