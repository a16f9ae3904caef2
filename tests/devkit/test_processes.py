"""Processes end when they should, with all that they started, and only those."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from trainedmodel_devkit import guardian
from trainedmodel_devkit.errors import StartFailed
from trainedmodel_devkit.processes import ManagedProcess
from trainedmodel_devkit.waiting import wait_until


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def wait_gone(*pids: int) -> None:
    wait_until(lambda: not any(map(is_alive, pids)), what=f"the end of {pids}", every_s=0.02)


def shell(folder: Path, script: str) -> ManagedProcess:
    return ManagedProcess("shell", ["sh", "-c", script], log=folder / "log")


def read_when_there(path: Path) -> str:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), what=f"a line in {path}")
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

    wait_gone(child)


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


@pytest.fixture
def prefix(tmp_path: Path) -> Iterator[str]:
    """Name shared memory that nobody else has, and remove it in the end."""
    prefix = f"trainedmodel-test-{os.getpid()}-{tmp_path.name}-"
    yield prefix
    for path in regions(prefix):
        path.unlink()


def regions(prefix: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{prefix}*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_shared_memory_of_a_process_goes_with_it_and_no_other(
    tmp_path: Path, prefix: str, number: signal.Signals
) -> None:
    other = Path("/dev/shm") / f"{prefix}other"
    other.touch()
    script = f"touch /dev/shm/{prefix}own-1 /dev/shm/{prefix}own-2; echo ready; exec sleep 300"
    process = ManagedProcess(
        "shell", ["sh", "-c", script], log=tmp_path / "log", shared_memory=f"{prefix}own-"
    )
    for _ in range(2):
        process.start()
        read_when_there(tmp_path / "log")
        assert len(regions(prefix)) == 3
        process.kill(number)
        await process.exited()
        assert regions(prefix) == [other]
        (tmp_path / "log").unlink()


def test_no_prefix_removes_no_shared_memory() -> None:
    with pytest.raises(ValueError, match="all programs"):
        guardian.remove_shared_memory("")


def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path, prefix: str) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    script = f"""
        import time
        from pathlib import Path
        from trainedmodel_devkit import guard
        from trainedmodel_devkit.processes import ManagedProcess
        guard.watch_folder(Path({str(folder)!r}))
        command = ["sh", "-c", "touch /dev/shm/{prefix}1; sleep 300 & echo $! $$; wait"]
        log = Path({str(tmp_path / "log")!r})
        process = ManagedProcess("shell", command, log=log, shared_memory={prefix!r})
        process.start()
        print("the guard knows", flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "the guard knows\n"
        pids = [int(word) for word in read_when_there(tmp_path / "log").split()]
        assert len(regions(prefix)) == 1
        os.kill(parent.pid, signal.SIGKILL)

    wait_gone(*pids)
    wait_until(lambda: not folder.exists() and not regions(prefix))


def test_what_a_killed_guard_has_left_is_removed_by_the_next_one(
    tmp_path: Path, prefix: str
) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    (Path("/dev/shm") / f"{prefix}1").touch()
    script = f"""
        import time
        from pathlib import Path
        from trainedmodel_devkit import guard
        from trainedmodel_devkit.processes import ManagedProcess
        guard.watch_folder(Path({str(folder)!r}))
        log = Path({str(tmp_path / "log")!r})
        process = ManagedProcess("shell", ["sleep", "300"], log=log, shared_memory={prefix!r})
        process.start()
        print(process.pid, guard._helper.pid, flush=True)
        time.sleep(60)
    """
    environment = {**os.environ, "TRAINEDMODEL_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child, helper = (int(word) for word in parent.stdout.readline().split())
        os.kill(helper, signal.SIGKILL)
        os.kill(parent.pid, signal.SIGKILL)

    wait_gone(helper)  # until then it holds the journal's lock
    assert folder.exists()
    assert is_alive(child)
    journals = tmp_path / "cache" / "guards"
    assert len(guardian.mend(journals)) == 1
    wait_gone(child)
    assert not folder.exists()
    assert regions(prefix) == []
    assert list(journals.iterdir()) == []


def test_a_living_guards_journal_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    path, journal = guardian.open_journal(tmp_path)
    with journal:
        journal.write(f"+folder {folder}\n")
        journal.flush()
        assert guardian.mend(tmp_path) == []
        assert folder.exists()
    assert guardian.mend(tmp_path) == [path]
    assert not folder.exists()


def test_what_was_removed_or_belongs_to_another_boot_or_process_is_left_alone(
    tmp_path: Path, prefix: str
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    memory = Path("/dev/shm") / f"{prefix}1"
    memory.touch()
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as stranger:
        lines = [
            *(f"+folder {kept}", f"-folder {kept}", f"+group {stranger.pid} 1", "+link lo 99"),
            *(f"+memory {prefix}", f"-memory {prefix}"),
            *("+group none 1", "+unheard of", ""),
        ]
        (tmp_path / "a.journal").write_text("\n".join(lines))
        started = guardian.start_time(stranger.pid)
        others = ["boot another", f"+group {stranger.pid} {started}", f"+memory {prefix}", ""]
        (tmp_path / "b.journal").write_text("\n".join(others))
        assert len(guardian.mend(tmp_path)) == 2
        assert kept.exists()
        assert regions(prefix) == [memory]
        assert stranger.poll() is None
        stranger.kill()


def test_a_guard_that_was_killed_is_replaced_by_one_that_knows_everything(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    script = f"""
        import sys, time
        from pathlib import Path
        from trainedmodel_devkit import guard
        guard.watch_folder(Path({str(first)!r}))
        print(guard._helper.pid, flush=True)
        sys.stdin.readline()
        guard._helper.wait()
        guard.watch_folder(Path({str(second)!r}))
        print("told", flush=True)
        time.sleep(60)
    """
    environment = {**os.environ, "TRAINEDMODEL_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        os.kill(int(parent.stdout.readline()), signal.SIGKILL)
        assert guardian.mend(tmp_path / "cache" / "guards") == [], "the parent lives"
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "told\n"
        assert first.exists()
        assert second.exists()
        os.kill(parent.pid, signal.SIGKILL)

    wait_until(lambda: not first.exists() and not second.exists())
