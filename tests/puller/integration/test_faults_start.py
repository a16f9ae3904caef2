"""A start on a volume that is full, read-only, or another puller's: alive, told, and waited for.

The volume is a real file system (a tmpfs with few inodes), so these tests need root.
"""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.puller.faulted import InstantProcess, Make, puller_factory, write_instant, write_model
from support.puller.forked import ForkedPuller, Zygote
from support.puller.processes import get

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Where a puller lives whose volume has 300 inodes."""
    folder = tmp_path / "small"
    volume = folder / "volume"
    volume.mkdir(parents=True)
    options = "size=64m,nr_inodes=300"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", volume], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", volume], check=True)


def remount(root: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", root / "volume"], check=True)


def fill(root: Path) -> None:
    """Take every inode that is left."""
    folder = root / "volume" / "others"
    folder.mkdir(exist_ok=True)
    for number in range(1000):
        try:
            (folder / f"{number}").touch()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return


@pytest.fixture
def small(root: Path, zygote: Zygote, tmp_path: Path) -> Iterator[Make]:
    """Make pullers on the small volume; all have ended before it is unmounted."""
    with puller_factory(zygote, tmp_path) as factory:

        def make(*flags: str, **details: object) -> ForkedPuller:
            return factory("--period", "0.2", *flags, at=root, **details)

        yield make


def answer(puller: ForkedPuller, path: str) -> tuple[int, str]:
    try:
        code, body = get(f"{puller.url}{path}")
    except OSError:
        return 0, ""
    return code, body.decode()


def says(puller: ForkedPuller, word: str) -> Callable[[], bool]:
    return lambda: word in answer(puller, "/readyz")[1]


def test_a_puller_that_was_killed_on_a_full_volume_starts_and_empties_its_trash(
    small: Make, root: Path, tmp_path: Path
) -> None:
    with InstantProcess() as server:
        puller = small(server="triton", server_url=server.url)
        for name in ("a", "b"):
            puller.put(name, write_instant(tmp_path, name))
            puller.wait(name, state="Loaded")
        half = puller.state / "trash" / "half"
        half.mkdir()
        (half / "weights").touch()
        fill(root)
        puller.kill()
        puller.start()
        assert not half.exists()
        assert get(f"{puller.url}/healthz")[0] == 200
        for name in ("a", "b"):
            puller.wait(name, state="Loaded")
        fill(root)
        puller.remove("b")
        puller.until(lambda: server.loaded == {"a"}, "the unload", 20)
        puller.wait_gone("b", 20)
        assert not (puller.models / "b").exists()
        assert puller.events("action_crashed") == []


def test_on_a_read_only_volume_it_starts_serves_on_and_converges_when_it_may_write(
    small: Make, root: Path, tmp_path: Path
) -> None:
    with InstantProcess() as server:
        puller = small(server="triton", server_url=server.url)
        for name in ("a", "b"):
            puller.put(name, write_instant(tmp_path, name))
            puller.wait(name, state="Loaded")
        puller.kill()
        remount(root, "ro")
        puller.start()
        assert "Read-only" in puller.events("volume_not_writable")[0]["error"]
        puller.wait("a", state="Loaded")
        assert answer(puller, "/readyz")[0] == 200, "what is served serves on"
        puller.put("c", write_instant(tmp_path, "c"))
        failed = puller.wait("c", state="Failed", reason="VolumeError")
        assert "Read-only" in failed["message"]
        puller.remove("b")
        leaving = puller.wait("b", state="Unloading", reason="VolumeError")
        assert "Read-only" in leaving["message"]
        assert server.loaded == {"a"}
        remount(root, "rw")
        puller.wait_gone("b", 30)
        puller.wait("c", state="Loaded", timeout_s=30)
        assert puller.events("action_crashed") == []
        assert not puller.has_died


def test_a_fresh_volume_that_is_read_only_is_waited_for(
    small: Make, root: Path, tmp_path: Path
) -> None:
    (root / "volume" / "models").mkdir()
    remount(root, "ro")
    puller = small(start={"kill_at": None})
    puller.until(says(puller, "Read-only"), "its words")
    assert answer(puller, "/healthz")[0] == 200
    assert answer(puller, "/readyz")[0] == 503
    remount(root, "rw")
    puller.put("m", write_model(tmp_path, "m"))
    puller.wait("m", state="Loaded")


# -- one owner --------------------------------------------------------------------------------


def second(make: Make, first: ForkedPuller, *flags: str) -> ForkedPuller:
    return make("--model-dir", str(first.models), *flags, start={"kill_at": None})


@pytest.mark.parametrize("is_state_shared", [True, False])
def test_a_second_puller_on_a_volume_waits_until_the_first_has_died(
    make: Make, tmp_path: Path, is_state_shared: bool
) -> None:
    first = make("--period", "0.2")
    first.put("m", write_model(tmp_path, "m"))
    first.wait("m", state="Loaded")
    state = first.state if is_state_shared else first.state.with_name("other")
    other = second(make, first, "--state-dir", str(state), "--period", "0.2")
    other.until(says(other, "VolumeInUse"), "the second's words")
    assert answer(other, "/healthz")[0] == 200
    assert answer(other, "/readyz")[0] == 503
    told = other.events("volume_unavailable")[0]
    assert told["reason"] == "VolumeInUse"
    if is_state_shared:
        assert first.process is not None
        assert f"process {first.process.pid}" in told["error"]
    uri = write_model(tmp_path, "n")
    for puller in (first, other):
        puller.put("n", uri)
    first.wait("n", state="Loaded")
    first.kill()
    other.until(lambda: other.status() is not None, "the second to take over", 20)
    other.wait("n", state="Loaded")
    begin = second(make, other, "--state-dir", str(state))
    begin.until(says(begin, "VolumeInUse"), "the third's words")
    code, _ = begin.terminate()
    assert code == 0, "who waits ends when it is asked to"


def test_whoever_was_killed_leaves_no_lock_behind(make: Make, tmp_path: Path) -> None:
    puller = make("--period", "0.2")
    puller.put("m", write_model(tmp_path, "m"))
    for _ in range(3):
        puller.wait("m", state="Loaded")
        puller.kill()
        puller.start()
    assert puller.events("volume_unavailable") == []


def test_a_plan_is_made_beside_the_owner(make: Make, tmp_path: Path) -> None:
    puller = make()
    puller.put("m", write_model(tmp_path, "m"))
    puller.wait("m", state="Loaded")
    flags = [*puller._command[3:], "--server", "none"]
    command = [*puller._command[:3], "plan", *flags]
    made = subprocess.run(command, env=puller._env, capture_output=True, timeout=60, check=False)
    assert made.returncode == 0, made.stderr
    assert b"Loaded" in made.stdout
