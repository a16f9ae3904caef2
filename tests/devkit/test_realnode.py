"""A real node comes up, runs pods, and leaves nothing on the machine, even if it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trainedmodel_devkit.errors import MissingTool
from trainedmodel_devkit.realnode import NodeCluster, check_prerequisites
from trainedmodel_devkit.realnode.containerd import PAUSE_IMAGE
from trainedmodel_devkit.realnode.images import Recipe
from trainedmodel_devkit.realnode.network import Addresses

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a real node needs root")

_UP = """
import signal
from trainedmodel_devkit.realnode import NodeCluster
with NodeCluster() as cluster:
    print(cluster.box.folder, cluster.box.addresses.machine_device, flush=True)
    signal.pause()
"""


def traces(folder: Path, device: str) -> list[str]:
    """List what is left of a node: processes, mounts, devices, folders."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(folder) in command:
                found.append(f"process {entry.name}: {command[:100]}")
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    found += [line for line in mounts if str(folder) in line]
    found += [one["ifname"] for one in links() if one["ifname"].startswith(device)]
    found += [str(folder)] if folder.exists() else []
    return found


def links() -> list[dict[str, str]]:
    shown = subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout
    return list(json.loads(shown))


def cgroups(device: str) -> list[Path]:
    top = Path("/sys/fs/cgroup")
    return [*top.glob(f"trainedmodel-{device}"), *top.glob(f"*/trainedmodel-{device}")]


def traces_after(seconds: float, folder: Path, device: str) -> list[str]:
    """List what is left, at the latest after some seconds, as soon as nothing is."""
    deadline = time.monotonic() + seconds
    while (left := traces(folder, device)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


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


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingTool, match="needs root"):
        check_prerequisites()


@needs_root
@pytest.mark.integration
@pytest.mark.timeout(240)
def test_a_node_runs_a_pod_and_leaves_nothing() -> None:
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
        assert cluster.containerd.find("one", "only") is not None
        assert traces(folder, device), "the looking itself sees nothing"
        assert cgroups(device)
    assert traces(folder, device) == []
    assert cgroups(device) == []


@needs_root
@pytest.mark.integration
@pytest.mark.timeout(240)
def test_a_killed_parent_leaves_no_process_mount_device_or_folder() -> None:
    with subprocess.Popen([sys.executable, "-c", _UP], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        name, device = parent.stdout.readline().split()
        assert traces(Path(name), device)
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
    left = traces_after(20, Path(name), device)
    for cgroup in cgroups(device):  # the one thing that the next node of this number takes over
        cgroup.rmdir()
    assert left == []
