"""A real node comes up, runs pods, and leaves nothing on the machine, even if it is killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.traces import cgroups, of_the_machine, traces, traces_after
from trainedmodel_devkit.errors import MissingTool
from trainedmodel_devkit.realnode import NodeCluster, check_prerequisites
from trainedmodel_devkit.realnode.containerd import PAUSE_IMAGE
from trainedmodel_devkit.realnode.images import Recipe
from trainedmodel_devkit.realnode.network import Addresses

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a real node needs root")

_UP = """
import signal
from trainedmodel_devkit import guard
from trainedmodel_devkit.realnode import NodeCluster
from trainedmodel_devkit.realnode.containerd import PAUSE_IMAGE
with NodeCluster() as cluster:
    kubectl = cluster.control_plane.kubectl
    kubectl("run", "one", f"--image={PAUSE_IMAGE}", "--image-pull-policy=Never")
    kubectl("wait", "pod/one", "--for=condition=Ready", "--timeout=120s")
    print(cluster.box.folder, cluster.box.addresses.machine_device, guard._helper.pid, flush=True)
    signal.pause()
"""


def test_nodes_side_by_side_share_no_address() -> None:
    first, second = Addresses(0), Addresses(2)
    seen = [
        *(first.machine, first.node, first.pods, first.machine_device, first.node_device),
        *(second.machine, second.node, second.pods, second.machine_device, second.node_device),
    ]
    assert len(set(seen)) == len(seen)
    assert first.cni_config() != second.cni_config()


def test_an_image_is_another_when_anything_in_it_changes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.py").write_text("1")
    recipe = Recipe("image:dev", "FROM scratch", {"src": source})
    before = recipe.digest()
    assert recipe.digest() == before
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "a.pyc").write_text("compiled")
    assert recipe.digest() == before
    (source / "b.py").write_text("")
    assert recipe.digest() != before
    assert Recipe("image:dev", "FROM other", {"src": source}).digest() != recipe.digest()
    packages = ("systemd",)
    on_another_base = Recipe("image:dev", "FROM scratch", {"src": source}, base_packages=packages)
    assert on_another_base.digest() != recipe.digest()


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingTool, match="needs root"):
        check_prerequisites()


@needs_root
@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_node_runs_a_pod_and_leaves_nothing() -> None:
    before = of_the_machine()
    with NodeCluster() as cluster:
        folder, device = cluster.box.folder, cluster.box.addresses.machine_device
        kubectl = cluster.control_plane.kubectl
        container = {"name": "only", "image": PAUSE_IMAGE, "imagePullPolicy": "Never"}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "one"},
            "spec": {"containers": [container]},
        }
        kubectl("apply", "-f", "-", input=json.dumps(pod))
        kubectl("wait", "pod/one", "--for=condition=Ready", "--timeout=60s")
        assert cluster.containerd.tasks.find("one", "only").pid > 1
        assert traces(folder, device), "the looking itself sees nothing"
        assert cgroups(folder)
    assert traces(folder, device) == []
    assert of_the_machine() == before


@needs_root
@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_node_changes_no_setting_of_the_machine_and_makes_no_folder_on_it() -> None:
    before = of_the_machine()
    with NodeCluster() as cluster:
        assert cluster.is_ready()
        inside = cluster.box.path("/proc/sys/vm/overcommit_memory").read_text()
        assert inside.strip() == "1", "the kubelet has what it insists on"
        assert cluster.box.path("/var/lib/kubelet").is_dir()
        while_it_runs = of_the_machine()
    assert while_it_runs == before
    assert of_the_machine() == before


def start_node() -> tuple[subprocess.Popen[str], Path, str, int]:
    """Start a process with a node; return it, the node's folder and device, and its guard."""
    parent = subprocess.Popen([sys.executable, "-c", _UP], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    folder, device, guard = parent.stdout.readline().split()
    assert traces(Path(folder), device)
    assert cgroups(Path(folder))
    return parent, Path(folder), device, int(guard)


@needs_root
@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_killed_parent_leaves_nothing() -> None:
    before = of_the_machine()
    parent, folder, device, _ = start_node()
    with parent:
        parent.send_signal(signal.SIGKILL)
    assert traces_after(60, folder, device) == []
    assert of_the_machine() == before


@needs_root
@pytest.mark.integration
@pytest.mark.timeout(600)
def test_what_a_killed_parent_and_its_killed_guard_leave_is_removed_by_a_command() -> None:
    before = of_the_machine()
    parent, folder, device, guard = start_node()
    with parent:
        os.kill(guard, signal.SIGKILL)
        parent.send_signal(signal.SIGKILL)
    assert traces(folder, device), "a node that nobody ends runs on"
    command = [sys.executable, "-m", "trainedmodel_devkit", "clean"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stderr
    assert "removed what" in said
    assert traces_after(60, folder, device) == []
    assert of_the_machine() == before
