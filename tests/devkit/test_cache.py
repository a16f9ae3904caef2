"""The cache: one builder at a time, and nothing half built is ever found."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trainedmodel_devkit.binaries import control_plane_binaries
from trainedmodel_devkit.cache import building, cache_folder, locked
from trainedmodel_devkit.errors import BuildFailed, MissingTool
from trainedmodel_devkit.waiting import wait_until


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRAINEDMODEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cache_folder_follows_the_environment(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("TRAINEDMODEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert cache_folder() == cache / "trainedmodel"


def test_a_build_that_fails_leaves_nothing(cache: Path) -> None:
    def fail() -> None:
        with building(cache / "thing" / "program") as draft:
            draft.write_text("half")
            raise RuntimeError("the compiler died")

    with pytest.raises(RuntimeError):
        fail()
    assert list((cache / "thing").iterdir()) == []


def test_the_leftover_of_a_killed_build_goes_with_the_next(cache: Path) -> None:
    leftover = cache / ".program.building-abc"
    leftover.mkdir(parents=True)

    with building(cache / "program") as draft:
        draft.write_text("whole")

    assert (cache / "program").read_text() == "whole"
    assert not leftover.exists()


def test_a_second_process_waits_for_the_lock(tmp_path: Path) -> None:
    script = "from trainedmodel_devkit.cache import locked\nwith locked('x'): print('mine')"
    with locked("x"):
        second = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        time.sleep(0.5)
        assert second.poll() is None
    assert second.communicate(timeout=10)[0] == b"mine\n"


def test_incomplete_assets_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etcd").touch(mode=0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))

    with pytest.raises(MissingTool, match=r"has no kube-apiserver, kubectl: .*KUBEBUILDER_ASSETS"):
        control_plane_binaries()


def test_without_go_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MissingTool, match=r"install Go 1\.\d+ or newer .*KUBEBUILDER_ASSETS"):
        control_plane_binaries()


def test_a_go_that_is_too_old_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho go1.19.8\n")
    go.chmod(0o755)
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with pytest.raises(MissingTool, match=r"go1\.19\.8 is too old"):
        control_plane_binaries()


def test_a_build_is_refused_with_words_while_tests_with_limits_run(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINEDMODEL_NO_BUILDS", "1")
    with (
        pytest.raises(BuildFailed, match=r"helm is not built.*prepare"),
        building(cache / "v1" / "helm"),
    ):
        pass
    assert not (cache / "v1").exists()


@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not on PATH")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_compiler_that_is_stopped_leaves_nothing_in_the_temporary_folder(
    cache: Path, tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    code = (
        "import signal; from trainedmodel_devkit.binaries import helm_binary; "
        # a job in the background of a shell is started with SIGINT ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler); helm_binary()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as parent:
        wait_until(lambda: list(temporary.rglob("go-build*")), 200)
        parent.send_signal(number)
    wait_until(lambda: list(temporary.iterdir()) == [], 60)
    wait_until(lambda: not _processes_with(str(temporary)), 60)
    assert list(temporary.iterdir()) == []
    assert not list(cache.rglob("helm"))


def _processes_with(text: str) -> list[Path]:
    """List processes whose command names a path."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if text.encode() in command:
            found.append(entry)
    return found
