"""An operator of several namespaces on a real API server, some of which cannot be read.

Its account has a Role in each namespace and nothing else, as the chart gives it where namespaces
are named. One is deleted, one loses its Role, one kind of one is refused, one was never there.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.operator.on_cluster import Cluster
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.documents import trained_model
from trainedmodel_devkit.operatorprocess import OperatorProcess
from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
ACCOUNT = "tenants-operator"
READABLE = "trainedmodel_operator_namespace_readable"

StartOperator = Callable[..., AbstractContextManager[OperatorProcess]]


def rules(*, without: str = "") -> list[Any]:
    """Return what the shipped role allows in a namespace, without one kind."""
    documents = yaml.safe_load_all((DEPLOY / "base" / "operator-role.yaml").read_text())
    role = next(one for one in documents if one["kind"] == "ClusterRole")
    found: list[Any] = [rule for rule in role["rules"] if without not in rule["resources"]]
    return found


class Tenants:
    """Two namespaces, the operator's Role in each, and where its probes and metrics are."""

    def __init__(self, control_plane: ControlPlane, cluster: Cluster) -> None:
        self.control_plane = control_plane
        self.a = cluster
        self.b_name = f"{cluster.namespace}-b"
        self.health, self.metrics = free_port(), free_port()
        cluster.kubectl("create", "serviceaccount", ACCOUNT)
        self.grant(cluster.namespace)
        self.b = self.make_b()

    def make_b(self) -> Cluster:
        self.control_plane.kubectl("create", "namespace", self.b_name)
        self.grant(self.b_name)
        return Cluster(self.control_plane, self.b_name)

    def grant(self, namespace: str, *, without: str = "") -> None:
        kind = {"apiVersion": "rbac.authorization.k8s.io/v1"}
        named = {"name": ACCOUNT, "namespace": namespace}
        subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": self.a.namespace}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT}
        role = {**kind, "kind": "Role", "metadata": named, "rules": rules(without=without)}
        binding = {**kind, "kind": "RoleBinding", "metadata": named, "roleRef": reference}
        documents = yaml.safe_dump_all([role, {**binding, "subjects": [subject]}])
        self.control_plane.kubectl("apply", "-f", "-", input=documents)

    @property
    def arguments(self) -> dict[str, Any]:
        kubeconfig = self.control_plane.kubeconfig_for_service_account(self.a.namespace, ACCOUNT)
        ports = [f"--health-port={self.health}", f"--metrics-port={self.metrics}"]
        names = f"--namespace={self.a.namespace},{self.b_name}"
        return {"resync_s": 3, "flags": [names, *ports], "kubeconfig": kubeconfig}

    def readable(self, namespace: str) -> float | None:
        url = f"http://127.0.0.1:{self.metrics}/metrics"
        with urllib.request.urlopen(url, timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        start = f'{READABLE}{{namespace="{namespace}"}} '
        return next(
            (float(one.removeprefix(start)) for one in lines if one.startswith(start)), None
        )

    def is_alive(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/healthz", timeout=20) as said:
            return bool(json.load(said)["ok"])

    def prove_a_is_served(self, name: str) -> None:
        """A model that is new is placed, and an entry that a hand took away is put back."""
        self.a.apply(trained_model(name))
        wait_until(lambda: f"{name}.json" in self.a.data())
        patch = json.dumps({"data": {f"{name}.json": None}})
        self.a.kubectl("patch", "cm", "tabular-models-0", "--type=merge", "-p", patch)
        wait_until(lambda: f"{name}.json" in self.a.data())
        wait_until(lambda: self.a.status(name).get("state") == "Pending")
        assert self.is_alive()


@pytest.fixture
def tenants(control_plane: ControlPlane, cluster: Cluster) -> Iterator[Tenants]:
    tenants = Tenants(control_plane, cluster)
    yield tenants
    control_plane.kubectl(
        "delete", "namespace", tenants.b_name, "--ignore-not-found", "--wait=false"
    )


def test_a_namespace_that_is_deleted_is_left_out_and_served_again_when_it_is_back(
    tenants: Tenants, start_operator: StartOperator
) -> None:
    with start_operator(**tenants.arguments) as operator:
        tenants.b.apply(trained_model("of-b"))
        wait_until(lambda: "of-b.json" in tenants.b.data())
        tenants.control_plane.kubectl("delete", "namespace", tenants.b_name, "--timeout=120s")
        wait_until(lambda: tenants.readable(tenants.b_name) == 0)
        tenants.prove_a_is_served("one")
        assert tenants.readable(tenants.a.namespace) == 1
        assert operator.log().count("namespace_left_out") == 1
        tenants.b = tenants.make_b()
        wait_until(lambda: tenants.readable(tenants.b_name) == 1)
        tenants.b.apply(trained_model("again"))
        wait_until(lambda: "again.json" in tenants.b.data())
        assert "resync_failed" not in operator.log()
        assert operator.poll() is None


def test_started_without_one_of_its_namespaces_it_serves_the_others_and_that_one_when_it_comes(
    tenants: Tenants, start_operator: StartOperator
) -> None:
    tenants.control_plane.kubectl("delete", "namespace", tenants.b_name, "--timeout=120s")
    with start_operator(**tenants.arguments) as operator:
        tenants.prove_a_is_served("one")
        assert tenants.readable(tenants.b_name) == 0
        assert "namespace_left_out" in operator.log()
        tenants.b = tenants.make_b()
        tenants.b.apply(trained_model("of-b"))
        wait_until(lambda: "of-b.json" in tenants.b.data())


@pytest.mark.parametrize("kind", ["trainedmodels", "configmaps", "pods", "modelreports"])
def test_a_namespace_in_which_one_kind_is_refused_is_left_out_until_it_is_allowed(
    tenants: Tenants, start_operator: StartOperator, kind: str
) -> None:
    tenants.grant(tenants.b_name, without=kind)
    tenants.b.apply(trained_model("of-b"))
    with start_operator(**tenants.arguments):
        tenants.prove_a_is_served("one")
        assert tenants.readable(tenants.b_name) == 0
        assert tenants.b.data() == {}
        tenants.grant(tenants.b_name)
        wait_until(lambda: "of-b.json" in tenants.b.data())
        wait_until(lambda: tenants.b.status("of-b").get("state") == "Pending")


def test_a_namespace_that_is_not_there_is_told_by_an_operator_that_may_read_all_of_them(
    tenants: Tenants, start_operator: StartOperator
) -> None:
    arguments = {key: one for key, one in tenants.arguments.items() if key != "kubeconfig"}
    tenants.control_plane.kubectl("delete", "namespace", tenants.b_name, "--timeout=120s")
    with start_operator(**arguments) as operator:
        tenants.prove_a_is_served("one")
        wait_until(lambda: tenants.readable(tenants.b_name) == 0)
        assert f"namespace {tenants.b_name} does not exist" in operator.log()
        assert tenants.a.find("configmap", "trainedmodel-operator-models-0") is None
        tenants.make_b()
        wait_until(lambda: tenants.readable(tenants.b_name) == 1)
