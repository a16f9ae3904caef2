"""A control plane starts, serves, stands beside another, and leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from devkit.test_processes import wait_gone
from trainedmodel_devkit.audit import Request
from trainedmodel_devkit.controlplane import WEBHOOK_CONFIGURATION, ControlPlane
from trainedmodel_devkit.errors import CommandFailed
from trainedmodel_devkit.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


def processes_that_mention(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in command:
                found.append(int(entry.name))
    return found


def test_it_serves_the_version_that_go_mod_names(control_plane: ControlPlane) -> None:
    if os.environ.get("KUBEBUILDER_ASSETS"):
        pytest.skip("the programs come from elsewhere")
    said = json.loads(control_plane.kubectl("version", "-o", "json"))
    go_mod = Path(__file__).parents[2] / "devkit" / "go" / "kubernetes" / "go.mod"

    assert f"k8s.io/kubernetes {said['serverVersion']['gitVersion']}\n" in go_mod.read_text()


def test_a_refused_command_raises_what_kubectl_said(control_plane: ControlPlane) -> None:
    with pytest.raises(CommandFailed, match='pods "nobody" not found'):
        control_plane.kubectl("get", "pod", "nobody")


def test_a_service_account_may_do_only_what_rbac_grants(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "serviceaccount", "reader")
    kubeconfig = str(control_plane.kubeconfig_for_service_account("default", "reader"))
    me = json.loads(
        control_plane.kubectl("--kubeconfig", kubeconfig, "auth", "whoami", "-o", "json")
    )

    assert me["status"]["userInfo"]["username"] == "system:serviceaccount:default:reader"
    with pytest.raises(CommandFailed, match="Forbidden"):
        control_plane.kubectl("--kubeconfig", kubeconfig, "get", "secrets")


def test_a_namespace_that_is_deleted_goes(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "namespace", "short")
    control_plane.kubectl("create", "configmap", "x", "-n", "short")
    control_plane.kubectl("delete", "namespace", "short", "--timeout=20s")

    with pytest.raises(CommandFailed, match="not found"):
        control_plane.kubectl("get", "namespace", "short")


def test_what_is_owned_dies_with_its_owner(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "configmap", "owner")
    uid = control_plane.kubectl("get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    owned = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "owned", "namespace": "default", "ownerReferences": [owner]},
    }
    control_plane.kubectl("create", "-f", "-", input=json.dumps(owned))
    control_plane.kubectl("delete", "configmap", "owner")
    control_plane.kubectl("wait", "--for=delete", "configmap/owned", "--timeout=10s")


def test_admission_policies_are_served(control_plane: ControlPlane) -> None:
    assert "validatingadmissionpolicies" in control_plane.kubectl("api-resources", "-o", "name")


def test_writes_are_counted_at_the_api_server(control_plane: ControlPlane) -> None:
    mark = control_plane.audit_mark()
    control_plane.kubectl("create", "configmap", "counted")
    control_plane.kubectl("get", "configmap", "counted")
    control_plane.kubectl("delete", "configmap", "counted", "--wait=false")

    def by_kubectl() -> list[Request]:
        seen = control_plane.requests(
            resource="configmaps", since=mark, where=lambda r: r.user_agent.startswith("kubectl")
        )
        return seen if len(seen) >= 3 else []

    seen = wait_until(by_kubectl)  # the log is written a moment after the answers
    assert [(r.verb, r.name, r.code, r.user) for r in seen] == [
        ("create", "counted", 201, "admin"),
        ("get", "counted", 200, "admin"),
        ("delete", "counted", 200, "admin"),
    ]


def test_after_a_compaction_old_revisions_are_gone(control_plane: ControlPlane) -> None:
    assert control_plane.compact() > 1


def test_two_stand_side_by_side_and_leave_nothing(control_plane: ControlPlane) -> None:
    with ControlPlane() as second:
        second.kubectl("create", "namespace", "only-here")
        assert "only-here" not in control_plane.kubectl("get", "namespaces")
        assert len(processes_that_mention(str(second.folder))) == 3
        folder = second.folder

    assert not folder.exists()
    assert processes_that_mention(str(folder)) == []


def test_what_ships_is_installed_but_for_the_kinds_that_are_left_out() -> None:
    with ControlPlane() as plane:
        installed = {document["kind"] for document in plane.install()}
        assert {"Deployment", "ClusterRole", "ValidatingAdmissionPolicy"} <= installed
        assert WEBHOOK_CONFIGURATION not in installed
        assert plane.kubectl("get", "mutatingwebhookconfigurations", "-o", "name") == ""
        assert plane.kubectl("get", "trainedmodels.trainedmodel.dev", "-A") == ""
        again = plane.install(without={"Deployment"})
        assert "Deployment" not in {document["kind"] for document in again}
        found = plane.kubectl("get", "mutatingwebhookconfigurations", "-o", "name")
        assert found.endswith("/trainedmodel-webhook\n")


def test_nothing_outlives_a_killed_parent() -> None:
    command = [sys.executable, "-m", "trainedmodel_devkit", "up"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as parent:
        assert parent.stdout is not None
        match = re.fullmatch(
            r"export KUBECONFIG=(.+)/admin\.kubeconfig\n", parent.stdout.readline()
        )
        assert match is not None
        pids = processes_that_mention(match[1])
        assert len(pids) == 3
        parent.send_signal(signal.SIGKILL)

    wait_gone(*pids)
    folder = Path(match[1])
    wait_until(lambda: not folder.exists())


def test_ctrl_c_ends_it_in_order() -> None:
    # what a shell runs in its background is deaf to Ctrl-C: this stands for a terminal
    program = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv[1:] = ["up"]
runpy.run_module("trainedmodel_devkit", run_name="__main__")
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as parent:
        assert parent.stdout is not None
        folder = Path(parent.stdout.readline().strip().removeprefix("export KUBECONFIG=")).parent
        try:
            parent.send_signal(signal.SIGINT)
            assert parent.wait(20) == 0
        finally:
            parent.kill()  # its guard takes everything else down

    assert not folder.exists()
    assert processes_that_mention(str(folder)) == []
