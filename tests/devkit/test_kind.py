"""The provider kind: which Docker and image, what is handed to runc, and that a failure is one."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from trainedmodel_devkit import guardian
from trainedmodel_devkit.environments import checkout
from trainedmodel_devkit.errors import CommandFailed, MissingTool
from trainedmodel_devkit.kind import NODE_IMAGE
from trainedmodel_devkit.kind.choice import Choice, choose, cluster_config, ipv4_gateway
from trainedmodel_devkit.kind.engine import MachinesDocker, complaint_of, run
from trainedmodel_devkit.kind.nodeimage import image_names
from trainedmodel_devkit.kind.runc_trimmed import described_in, missing_capabilities, trimmed
from trainedmodel_devkit.processes import run_to_end
from trainedmodel_devkit.realnode.tasks import Tasks, running_tasks

STATUS = "Name:\tcat\nCapPrm:\t000001fffeffffff\nCapBnd:\t{:016x}\nSeccomp:\t0\n"
ALL = (1 << 41) - 1
SYS_RESOURCE = 1 << 24


@pytest.mark.parametrize(
    ("wanted", "complaint", "choice"),
    [
        (None, None, Choice(own_engine=False, image=None)),
        ("", None, Choice(own_engine=False, image=None)),
        ("kindest/node:v1", None, Choice(own_engine=False, image="kindest/node:v1")),
        (NODE_IMAGE, None, Choice(own_engine=False, image=NODE_IMAGE)),
        (None, "no daemon", Choice(own_engine=True, image=NODE_IMAGE)),
        (NODE_IMAGE, "no daemon", Choice(own_engine=True, image=NODE_IMAGE)),
    ],
)
def test_docker_is_used_where_it_answers_and_all_is_made_here_where_it_does_not(
    wanted: str | None, complaint: str | None, choice: Choice
) -> None:
    assert choose(wanted, complaint) == choice
    assert choice.is_built == (choice.image == NODE_IMAGE)


def test_an_image_to_be_pulled_is_never_silently_replaced_by_our_own() -> None:
    with pytest.raises(MissingTool, match=r"KIND_NODE_IMAGE=kindest/node:v1 .*no daemon"):
        choose("kindest/node:v1", "no daemon")


def test_a_clusters_api_server_listens_where_this_machine_reaches_it() -> None:
    assert "networking" not in cluster_config(None)
    networking = {"apiServerAddress": "10.201.1.2", "apiServerPort": 6443}
    assert cluster_config("10.201.1.2")["networking"] == networking


@pytest.mark.parametrize("listed", ["172.18.0.1 fc00::1 \n", "fc00::1 172.18.0.1"])
def test_pods_reach_this_machine_by_ipv4_in_whatever_order_docker_lists_gateways(
    listed: str,
) -> None:
    assert ipv4_gateway(listed) == "172.18.0.1"


def test_a_network_without_an_ipv4_gateway_is_refused_with_words() -> None:
    with pytest.raises(MissingTool, match="no IPv4 gateway: fc00::1"):
        ipv4_gateway("fc00::1")


def test_images_are_found_by_their_programs_whatever_registry_and_tag_kubeadm_names() -> None:
    listed = (
        "registry.k8s.io/kube-apiserver:v1.34.4\nregistry.k8s.io/coredns/coredns:v1.12.1\n"
        "registry.k8s.io/etcd:3.6.5-0\n"
    )
    assert image_names(listed) == {
        "kube-apiserver": "registry.k8s.io/kube-apiserver:v1.34.4",
        "coredns": "registry.k8s.io/coredns/coredns:v1.12.1",
        "etcd": "registry.k8s.io/etcd:3.6.5-0",
    }


def test_a_machine_with_all_capabilities_misses_none() -> None:
    assert missing_capabilities(STATUS.format(ALL)) == set()
    assert missing_capabilities(STATUS.format(ALL & ~SYS_RESOURCE)) == {"CAP_SYS_RESOURCE"}


def test_a_capability_that_newer_kernels_know_is_left_alone() -> None:
    process = {"capabilities": {"bounding": ["CAP_FROM_THE_FUTURE", "CAP_CHOWN"]}}
    assert trimmed(process, missing_capabilities(STATUS.format(ALL))) == process


def test_what_the_machine_lacks_is_taken_out_of_all_sets_and_nothing_else_changes() -> None:
    process: dict[str, Any] = {
        "args": ["sh"],
        "capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"],
            "effective": ["CAP_SYS_RESOURCE"],
            "ambient": None,
        },
    }
    less = {"bounding": ["CAP_CHOWN"], "effective": [], "ambient": []}
    assert trimmed(process, {"CAP_SYS_RESOURCE"}) == {"args": ["sh"], "capabilities": less}
    assert trimmed({"args": ["sh"]}, {"CAP_SYS_RESOURCE"}) == {"args": ["sh"]}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("--root /r create --bundle /b id", (Path("/b/config.json"), True)),
        ("--root /r run -b /b id", (Path("/b/config.json"), True)),
        ("create --bundle=/b id", (Path("/b/config.json"), True)),
        ("create id", (Path("config.json"), True)),
        ("exec --process /p.json --detach id", (Path("/p.json"), False)),
        ("exec id true", None),
        ("--root /r state id", None),
        ("kill --all id 9", None),
    ],
)
def test_the_runtime_changes_only_descriptions_of_what_is_to_be_started(
    words: str, found: tuple[Path, bool] | None
) -> None:
    assert described_in(words.split()) == found


def test_only_containers_that_run_are_found() -> None:
    listed = "TASK    PID    STATUS\naaa     12     RUNNING\nbbb     0      STOPPED\n"
    assert running_tasks(listed) == {"aaa": 12}
    said = {"containers": "bbb\naaa\n", "tasks": listed}
    tasks = Tasks(lambda *words: said[words[5]])
    assert tasks.find("pod", "server").pid == 12
    said["containers"] = "bbb\n"
    with pytest.raises(CommandFailed, match="pod/server does not run"):
        tasks.find("pod", "server")


def test_a_clusters_remains_are_deleted_by_kind_whatever_boot_they_are_of(tmp_path: Path) -> None:
    kind = program(tmp_path / "with space" / "kind", f'echo "$@" >>{tmp_path}/said')
    lines = ("boot another", f"+cluster one {kind}", f"+cluster two {kind}", "-cluster two")
    (tmp_path / "a.journal").write_text("\n".join(lines))
    assert len(guardian.mend(tmp_path)) == 1
    (said,) = (tmp_path / "said").read_text().splitlines()
    assert said.startswith("delete cluster --name=one --kubeconfig=")


def test_a_docker_that_is_silent_or_not_there_is_no_docker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert complaint_of() == "docker is not on PATH"
    program(tmp_path / "docker", "echo no daemon >&2; exit 1")
    assert complaint_of() == "no daemon"
    program(tmp_path / "docker", "echo 28.0")
    assert complaint_of() is None
    monkeypatch.setattr("trainedmodel_devkit.kind.engine._ASK_TIMEOUT_S", 0.2)
    program(tmp_path / "docker", "exec /bin/sleep 60")
    assert complaint_of() == "silent for 0.2 s"


def test_a_command_that_fails_or_never_ends_says_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path / "kind", "echo half; echo no space left >&2; exit 3")
    with pytest.raises(CommandFailed, match=r"kind create:\nhalf\nno space left"):
        run(MachinesDocker(), "kind", "create")
    program(tmp_path / "kind", "/bin/sleep 60 & wait")
    with pytest.raises(CommandFailed, match=r"kind create: no end after 0\.5 s"):
        run(MachinesDocker(), "kind", "create", timeout_s=0.5)


def test_what_does_not_end_in_time_ends_with_all_that_it_started(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_to_end(["sh", "-c", f"sleep 60 & echo $! >{tmp_path}/pid; wait"], timeout_s=2)
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60
    while "sleep" in command_of(child):  # the kernel takes an instant to carry out a kill
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("flags", [["--provider=kind"], ["--provider=kubeconfig"]])
def test_a_suite_whose_cluster_does_not_start_fails(tmp_path: Path, flags: list[str]) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), "KIND_NODE_IMAGE": "kindest/node:v1"}
    options = ["-p", "no:cacheprovider", "--store-host=127.0.0.1", *flags]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "e2e/test_shapes.py", *options],
        cwd=checkout(),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stdout
    last = result.stdout.splitlines()[-1]
    assert "3 errors" in last, result.stdout
    assert "skipped" not in last


def test_only_what_a_test_itself_asks_for_in_vain_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(checkout())
    from e2e.providers import NotHere, skip_reason

    assert skip_reason(NotHere("no way in"), "call") == "no way in"
    assert skip_reason(NotHere("no way in"), "setup") is None
    assert skip_reason(AssertionError("wrong"), "call") is None


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
