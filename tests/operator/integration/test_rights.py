"""The operator with exactly the rights that ship, in both modes: enough, and no more.

What is run is what `deploy/` renders to: the Deployment's arguments and environment, as the service
account that it names, with the roles that it binds. The audit log tells which rights were used.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.kserve_kind import install_kind, remove_kind, serve
from support.operator.on_cluster import Cluster
from trainedmodel_contract import names
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.documents import loaded, trained_model
from trainedmodel_devkit.errors import CommandFailed
from trainedmodel_devkit.operatorprocess import NAME, OperatorProcess, operator_account
from trainedmodel_devkit.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
URL = "http://tabular.example.com"
#: Given for the webhook's certificates, which are tested elsewhere.
ELSEWHERE = {"secrets", "mutatingwebhookconfigurations"}


@dataclass(frozen=True)
class Mode:
    """One way to install the operator."""

    folder: str
    own_namespace: str
    serves_all: bool

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.own_namespace}:{NAME}"


CLUSTER = Mode("base", "trainedmodel-system", serves_all=True)
NAMESPACED = Mode("overlays/namespaced", "trainedmodel-demo", serves_all=False)
MODES = [pytest.param(CLUSTER, id="cluster"), pytest.param(NAMESPACED, id="namespaced")]


@dataclass
class Installed:
    """One mode on the control plane, and a namespace that it serves."""

    mode: Mode
    documents: list[Any]
    cluster: Cluster

    @property
    def control_plane(self) -> ControlPlane:
        return self.cluster.control_plane

    def can_i(self, verb: str, resource: str, namespace: str) -> bool:
        try:
            answer = self.control_plane.kubectl(
                "auth", "can-i", verb, resource, "-n", namespace, f"--as={self.mode.user}"
            )
        except Exception as error:
            return "yes" in str(error)
        return answer.strip() == "yes"

    @contextlib.contextmanager
    def operator(self, folder: Path) -> Iterator[OperatorProcess]:
        """Run what the Deployment says, but for its ports."""
        account = operator_account(self.control_plane, self.mode.own_namespace)
        [deployment] = [one for one in self.documents if one["kind"] == "Deployment"]
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        fields = {"metadata.name": "operator-0", "metadata.namespace": self.mode.own_namespace}
        environment = {
            one["name"]: fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
            for one in container["env"]
        }
        arguments = [one for one in container["args"] if "-port=" not in one]
        ports = ["--metrics-port=0", "--health-port=0", "--webhook-port=0", "--resync-s=1"]
        ports.append("--leader-elect")  # as it is by itself in a cluster
        log = folder / "operator.log"
        with OperatorProcess(account, log, *arguments, *ports, env=environment) as operator:
            yield operator


@pytest.fixture(params=MODES, scope="module")
def installed(request: pytest.FixtureRequest, control_plane: ControlPlane) -> Iterator[Installed]:
    mode: Mode = request.param
    served = "rights" if mode.serves_all else mode.own_namespace
    control_plane.kubectl("create", "namespace", served)
    documents = control_plane.install(mode.folder)
    install_kind(control_plane)
    yield Installed(mode, documents, Cluster(control_plane, served))
    remove_kind(control_plane)
    control_plane.kubectl("delete", "namespace", served, "--wait=false")


def granted(installed: Installed) -> set[tuple[str, str]]:
    """Return what the roles give that are bound to the operator, as resource and verb."""
    bound = {
        (one["roleRef"]["kind"], one["roleRef"]["name"])
        for one in installed.documents
        if one["kind"].endswith("RoleBinding")
        and any(subject["name"] == "trainedmodel-operator" for subject in one["subjects"])
    }
    return {
        (resource, verb)
        for one in installed.documents
        if (one["kind"], one["metadata"]["name"]) in bound
        for rule in one["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def events_of(cluster: Cluster, name: str) -> list[Any]:
    text = cluster.kubectl("get", "events.events.k8s.io", "-o", "json")
    return [one for one in json.loads(text)["items"] if one["regarding"]["name"] == name]


def test_with_the_shipped_roles_it_does_all_its_work_and_needs_each_of_them(
    installed: Installed, tmp_path: Path
) -> None:
    cluster = installed.cluster
    mark = cluster.control_plane.audit_mark()
    serve(cluster, "tabular", URL)
    with installed.operator(tmp_path):
        cluster.run_pod("pod-a")
        cluster.report("pod-a", {}, configDigest="older")
        cluster.apply(
            trained_model("iris"), trained_model("a", name="same"), trained_model("b", name="same")
        )
        wait_until(lambda: {"iris.json", "a.json"} <= set(cluster.data()))
        wait_until(lambda: nudged_to(cluster))
        cluster.report("pod-a", loaded([trained_model("iris")]), configDigest=nudged_to(cluster))
        cluster.kubectl("wait", "--for=condition=Ready", "tmodel/iris", "--timeout=20s")
        wait_until(lambda: cluster.status("iris").get("url") == f"{URL}/v2/models/iris")
        wait_until(lambda: [one["reason"] for one in events_of(cluster, "iris")] == ["Ready"])
        wait_until(lambda: [one["reason"] for one in events_of(cluster, "b")] == ["NameConflict"])
        cluster.apply(trained_model("wine"))
        wait_until(lambda: "wine.json" in cluster.data())
        cluster.kubectl("delete", "cm", "tabular-models-0")
        wait_until(lambda: "iris.json" in cluster.data())
        cluster.kubectl("delete", "tmodel", "--all")
        cluster.kubectl("delete", "pod", "pod-a", "--grace-period=0", "--force")
        wait_until(lambda: cluster.find("configmap", "tabular-models-0") is None)
    requests = cluster.control_plane.requests(
        since=mark, where=lambda one: one.user == installed.mode.user
    )
    refused = {(one.verb, one.resource, one.uri) for one in requests if one.code == 403}
    assert refused == set()
    used = {
        (f"{one.resource}/{one.subresource}".rstrip("/"), one.verb)
        for one in requests
        if one.resource
    }
    unused = {right for right in granted(installed) - used if right[0] not in ELSEWHERE}
    assert unused == {("events", "patch")}, "a repeated Event is tested elsewhere"
    if not installed.mode.serves_all:
        assert {one.namespace for one in requests if one.resource} == {cluster.namespace}


def nudged_to(cluster: Cluster) -> str | None:
    """Return the digest that pod-a was nudged for."""
    annotations = cluster.find("pod", "pod-a")["metadata"].get("annotations", {})
    value: str = annotations.get(names.CONFIG_ANNOTATION, "")
    return value.partition("/")[0] or None


def test_what_is_not_its_business_is_refused(installed: Installed) -> None:
    here = installed.cluster.namespace
    for verb, resource in (
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "pods"),
        ("delete", "pods"),
        ("update", "pods"),
        ("create", "pods/exec"),
        ("deletecollection", "configmaps"),
        ("update", "configmaps"),
        ("create", "trainedmodels.trainedmodel.dev"),
        ("patch", "trainedmodels.trainedmodel.dev"),
        ("delete", "trainedmodels.trainedmodel.dev"),
        ("patch", "modelreports.trainedmodel.dev"),
        ("patch", "inferenceservices.serving.kserve.io"),
        ("patch", "deployments.apps"),
        ("list", "events.events.k8s.io"),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("escalate", "roles.rbac.authorization.k8s.io"),
        ("list", "namespaces"),
        ("list", "nodes"),
    ):
        assert not installed.can_i(verb, resource, here), (verb, resource)
    assert installed.can_i("patch", "pods", here), "the question itself is sound"


def test_outside_of_its_namespace_it_may_do_nothing(installed: Installed) -> None:
    everywhere = installed.mode.serves_all
    for verb, resource in (
        ("list", "trainedmodels.trainedmodel.dev"),
        ("create", "configmaps"),
        ("patch", "pods"),
        ("create", "events.events.k8s.io"),
    ):
        assert installed.can_i(verb, resource, "default") is everywhere, (verb, resource)
    for verb in ("create", "get", "patch"):
        assert not installed.can_i(verb, "leases.coordination.k8s.io", "default")
    assert not installed.can_i("get", "leases/other", installed.mode.own_namespace)


def test_of_a_pod_it_may_change_its_annotation_and_nothing_that_does_harm(
    installed: Installed,
) -> None:
    cluster = installed.cluster
    cluster.run_pod("pod-b")
    account = installed.mode.own_namespace

    def tried(patch: object) -> str:
        return cluster.patch_pod_as_operator("pod-b", patch, account_namespace=account)

    wait_until(lambda: tried({"metadata": {"annotations": {names.CONFIG_ANNOTATION: "a"}}}) == "")
    image = {"spec": {"containers": [{"name": "server", "image": "evil"}]}}
    wait_until(lambda: "may not change the spec of pod pod-b" in tried(image))
    owner = {"metadata": {"annotations": {names.SERVER_ANNOTATION: "none"}}}
    assert "annotations" in tried(owner)


REPORTS, MODELS = "modelreports.trainedmodel.dev", "trainedmodels.trainedmodel.dev"
READ = {"get", "list", "watch"}
WRITE = {"create", "update", "patch", "delete", "deletecollection"}


def may(
    control_plane: ControlPlane, user: str, namespace: str, resource: str, *more: str
) -> set[str]:
    """Return what a user may do with a kind in a namespace."""

    def allowed(verb: str) -> bool:
        words = ("auth", "can-i", verb, resource, *more, "-n", namespace, f"--as={user}")
        try:
            return control_plane.kubectl(*words).strip() == "yes"
        except CommandFailed:
            return False

    return {verb for verb in READ | WRITE if allowed(verb)}


@pytest.mark.parametrize(
    ("role", "models"), [("view", READ), ("edit", READ | WRITE), ("admin", READ | WRITE)]
)
def test_who_views_edits_or_administers_a_namespace_does_so_with_its_models(
    control_plane: ControlPlane, cluster: Cluster, role: str, models: set[str]
) -> None:
    """By Kubernetes' own roles, into which its controller aggregates what ships."""
    user, here = f"a-{role}", cluster.namespace
    control_plane.install()
    cluster.kubectl("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}")
    wait_until(lambda: may(control_plane, user, here, MODELS) == models)
    assert may(control_plane, user, here, REPORTS) == READ
    assert may(control_plane, user, here, MODELS, "--subresource=status") == READ
    assert may(control_plane, user, "default", MODELS) == set()


def test_who_is_not_bound_to_a_role_sees_no_model(
    control_plane: ControlPlane, cluster: Cluster
) -> None:
    assert may(control_plane, "nobody", cluster.namespace, MODELS) == set()


def test_the_overlay_of_one_namespace_gives_the_rules_of_the_cluster() -> None:
    def rules(path: str) -> dict[str, Any]:
        documents = yaml.safe_load_all((DEPLOY / path).read_text())
        return {one["metadata"]["name"]: one["rules"] for one in documents if "rules" in one}

    in_cluster = {**rules("base/operator-role.yaml"), **rules("base/report-writer-role.yaml")}
    assert rules("overlays/namespaced/roles.yaml") == in_cluster


def test_the_optional_components_render_over_both_modes(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    for mode in ("base", "overlays/namespaced"):
        overlay = {
            "resources": [os.path.relpath(DEPLOY / mode, tmp_path.resolve())],
            "components": [
                os.path.relpath(DEPLOY / "components" / name, tmp_path.resolve())
                for name in ("network-policy", "service-monitor")
            ],
        }
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        rendered = list(yaml.safe_load_all(control_plane.kubectl("kustomize", str(tmp_path))))
        kinds = {one["kind"] for one in rendered}
        assert {"NetworkPolicy", "ServiceMonitor", "PodDisruptionBudget"} <= kinds
