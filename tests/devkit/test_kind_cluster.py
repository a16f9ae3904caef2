"""Clusters of kind side by side, and nothing left of them; `TRAINEDMODEL_TEST_SERVERS=kind`.

Opt-in: the node image takes a quarter of an hour and three gigabytes at first.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.traces import cgroups, of_the_machine, traces, traces_after

OPTED_INTO = "kind" in os.environ.get("TRAINEDMODEL_TEST_SERVERS", "").split(",")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not OPTED_INTO, reason="TRAINEDMODEL_TEST_SERVERS does not name kind"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a Docker of our own needs root"),
]

_UP = """
import signal
from trainedmodel_devkit import guard
from trainedmodel_devkit.kind import kind_cluster
with kind_cluster() as cluster:
    box = cluster.engine.box
    print(box.folder, box.addresses.machine_device, cluster.name, guard._helper.pid, flush=True)
    signal.pause()
"""


class Run:
    """A process with a cluster whose node is Ready."""

    def __init__(self) -> None:
        environment = {**os.environ, "DOCKER_HOST": "unix:///nowhere"}  # no Docker answers
        command = [sys.executable, "-c", _UP]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, text=True, env=environment)
        assert self.process.stdout is not None
        folder, self.device, self.name, guard = self.process.stdout.readline().split()
        self.folder, self.guard = Path(folder), int(guard)
        assert traces(self.folder, self.device), "the looking itself sees nothing"
        assert cgroups(self.folder)

    def end(self, *signals_to: tuple[int, signal.Signals]) -> list[str]:
        """End it by signals, and list what is left of it."""
        with self.process:
            for pid, number in signals_to:
                os.kill(pid, number)
        return traces_after(60, self.folder, self.device)


def test_clusters_side_by_side_leave_nothing_however_they_end() -> None:
    before = of_the_machine()
    first, second = Run(), Run()
    assert first.name != second.name
    assert first.end((first.process.pid, signal.SIGKILL)) == []
    assert traces(second.folder, second.device), "the end of one is not the other's"
    assert second.end((second.process.pid, signal.SIGINT)) == []
    assert of_the_machine() == before


def test_what_a_killed_run_and_its_killed_guard_leave_is_removed_by_a_command() -> None:
    before = of_the_machine()
    run = Run()
    os.kill(run.guard, signal.SIGKILL)
    run.process.kill()
    run.process.wait()
    assert traces(run.folder, run.device), "a cluster that nobody ends runs on"
    command = [sys.executable, "-m", "trainedmodel_devkit", "clean"]
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    assert run.end() == []
    assert of_the_machine() == before
