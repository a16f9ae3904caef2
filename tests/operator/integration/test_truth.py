"""Admission and truth on a real API server: memory, names, pods that start, pullers that lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from support.operator.on_cluster import Cluster
from trainedmodel_contract import names
from trainedmodel_contract.conditions import find_condition
from trainedmodel_devkit.documents import loaded, trained_model
from trainedmodel_devkit.operatorprocess import OperatorProcess
from trainedmodel_devkit.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

StartOperator = Callable[..., AbstractContextManager[OperatorProcess]]


def condition(cluster: Cluster, name: str, kind: str) -> tuple[str, str]:
    found = find_condition(cluster.status(name), kind)
    return found.get("status", ""), found.get("reason", "")


def run_pod(cluster: Cluster, name: str, memory: str, **annotations: str) -> None:
    limits = {"resources": {"limits": {"memory": memory}}}
    puller = {"name": "trainedmodel-puller", "image": "puller"}
    containers = [puller, {"name": "server", "image": "server", **limits}]
    labels = {names.INJECT_LABEL: names.INJECT_VALUE, names.PARENT_LABEL: "tabular"}
    metadata = {"name": name, "labels": labels, "annotations": annotations}
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
    cluster.apply({**document, "spec": {"containers": containers}})


def has_come_up(cluster: Cluster, name: str, *, ready: bool) -> None:
    """Write what a kubelet writes of a pod that was never Ready, or is."""
    began, since = (
        "2026-03-01T12:00:00Z",
        "2026-03-01T12:00:30Z" if ready else "2026-03-01T12:00:00Z",
    )
    status: dict[str, Any] = {
        "phase": "Running",
        "startTime": began,
        "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": since}],
    }
    patch = json.dumps({"status": status})
    cluster.kubectl("patch", "pod", name, "--subresource=status", "--type=merge", "-p", patch)


def test_declared_memory_is_held_against_the_servers_limit(
    cluster: Cluster, start_operator: StartOperator
) -> None:
    with start_operator(resync_s=2.0):
        run_pod(cluster, "pod-a", "4Gi")
        cluster.apply(trained_model("first", memory="3Gi"))
        wait_until(lambda: "first.json" in cluster.data())
        cluster.apply(trained_model("second", memory="2Gi"))
        refused = ("False", "InsufficientMemory")
        wait_until(lambda: condition(cluster, "second", "Accepted") == refused)
        told = cluster.kubectl(
            "get", "tmodel", "second", "-o", "jsonpath={.status.conditions[0].message}"
        )
        assert told == "needs 2.0 GiB, 1.0 of 4.0 GiB are declared free in the model server"
        cluster.kubectl("delete", "tmodel", "first")
        wait_until(lambda: "second.json" in cluster.data())
        run_pod(cluster, "pod-b", "1Gi")
        cluster.apply(trained_model("third", memory="1Mi"))
        wait_until(lambda: condition(cluster, "third", "Accepted") == refused)
        assert "second.json" in cluster.data(), "a smaller pod displaces nothing"


def test_a_pod_that_starts_turns_ready_off_for_nobody_and_a_liar_turns_nothing_on(
    cluster: Cluster, start_operator: StartOperator
) -> None:
    iris = trained_model("iris")
    with start_operator(resync_s=2.0):
        run_pod(cluster, "pod-a", "4Gi")
        has_come_up(cluster, "pod-a", ready=True)
        cluster.apply(iris)
        wait_until(lambda: cluster.status("iris"))
        run_pod(cluster, "pod-z", "4Gi")
        lie = cluster.report_document("pod-a", models=loaded([iris]))
        lie["metadata"]["name"] = "pod-z"
        cluster.kubectl("create", "-f", "-", documents=[lie])
        wait_until(lambda: condition(cluster, "iris", "Ready") == ("False", "ReportMissing"))
        cluster.kubectl("delete", "pod", "pod-z", "--force", "--grace-period=0")
        cluster.report("pod-a", loaded([iris]))
        cluster.kubectl("wait", "--for=condition=Ready", "tmodel/iris", "--timeout=20s")
        run_pod(cluster, "pod-b", "4Gi")
        wait_until(lambda: cluster.status("iris")["copies"]["summary"] == "1/2")
        assert condition(cluster, "iris", "Ready") == ("True", "PodsStarting")
        has_come_up(cluster, "pod-b", ready=False)
        cluster.report("pod-b", {})
        cluster.apply(trained_model("iris", version="2"))
        cluster.report("pod-a", loaded([trained_model("iris", version="2")]))
        cluster.kubectl("wait", "--for=condition=Ready", "tmodel/iris", "--timeout=20s")
        assert cluster.status("iris")["copies"]["summary"] == "1/2"
        has_come_up(cluster, "pod-b", ready=True)
        wait_until(lambda: condition(cluster, "iris", "Ready")[0] == "False")
