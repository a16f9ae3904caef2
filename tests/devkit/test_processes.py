"""Processes end when they should, with all that they started, and only those."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from trainedmodel_devkit.errors import StartFailed
from trainedmodel_devkit.processes import ManagedProcess


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def gone_within(seconds: float, *pids: int) -> bool:
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def shell(folder: Path, script: str) -> ManagedProcess:
    return ManagedProcess("shell", ["sh", "-c", script], log=folder / "log")


def read_when_there(path: Path) -> str:
    deadline = time.monotonic() + 5
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path.read_text()


async def test_output_of_all_lives_is_logged(tmp_path: Path) -> None:
    process = shell(tmp_path, "echo out; echo err >&2")
    for _ in range(2):
        process.start()
        assert await process.exited() == 0

    assert process.log().split() == ["out", "err"] * 2


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    process = shell(tmp_path, "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    process.start()
    read_when_there(tmp_path / "log")

    assert process.stop(grace_s=0.2) == -signal.SIGKILL


async def test_what_a_process_started_ends_with_it(tmp_path: Path) -> None:
    process = shell(tmp_path, f"sleep 300 & echo $! > {tmp_path / 'child'}; sleep 0.1")
    process.start()
    child = int(read_when_there(tmp_path / "child"))

    await process.exited()

    assert gone_within(2, child)


async def test_a_process_that_has_ended_gets_no_signal(tmp_path: Path) -> None:
    process = shell(tmp_path, "exit 3")
    process.start()
    await process.exited()

    process.kill()
    assert process.stop() == 3
    with pytest.raises(StartFailed, match="status 3"):
        process.check_alive()


async def test_the_end_is_awaited_without_blocking(tmp_path: Path) -> None:
    process = shell(tmp_path, "sleep 0.3; exit 5")
    process.start()
    turns = 0
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(process.exited())
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0.01)

    assert waiting.result() == 5
    assert turns > 5


def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    script = f"""
        import time
        from pathlib import Path
        from trainedmodel_devkit import guard
        from trainedmodel_devkit.processes import ManagedProcess
        guard.watch_folder(Path({str(folder)!r}))
        command = ["sh", "-c", "sleep 300 & echo $! $$; wait"]
        process = ManagedProcess("shell", command, log=Path({str(tmp_path / "log")!r}))
        process.start()
        print("the guard knows", flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "the guard knows\n"
        pids = [int(word) for word in read_when_there(tmp_path / "log").split()]
        os.kill(parent.pid, signal.SIGKILL)

    assert gone_within(3, *pids)
    deadline = time.monotonic() + 3
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
