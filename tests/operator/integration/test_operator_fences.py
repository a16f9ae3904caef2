"""What the operator's account may do with rights that RBAC cannot narrow, as shipped."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from support.asking import Answer, Asker, account
from support.operator.on_cluster import Cluster
from trainedmodel_contract import names
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.documents import trained_model
from trainedmodel_devkit.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SYSTEM, OPERATOR = "trainedmodel-system", "trainedmodel-operator"
OURS = {names.MANAGED_BY_LABEL: names.MANAGED_BY}
ANNOTATE = {"metadata": {"annotations": {names.CONFIG_ANNOTATION: "abc"}}}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    """Give an API server with Kubernetes' own policies that change objects."""
    flags = (
        "--feature-gates=MutatingAdmissionPolicy=true",
        "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
    )
    with ControlPlane(audit_log=True, api_server_flags=flags) as running:
        running.install()
        ask = account(running, SYSTEM, OPERATOR)
        foreign = {"metadata": {"name": "foreign"}, "apiVersion": "v1", "kind": "ConfigMap"}

        def refused(path: str, document: Any) -> bool:
            """Tell whether it was refused; policies hold some moments after they are there."""
            answer = ask("POST", f"{path}?dryRun=All", document)
            return "ValidatingAdmissionPolicy" in answer.text

        wait_until(lambda: refused("/api/v1/namespaces/default/configmaps", foreign))
        yield running


@pytest.fixture
def operator(control_plane: ControlPlane) -> Asker:
    return account(control_plane, SYSTEM, OPERATOR)


def shard(service: str, index: int = 0, labels: Mapping[str, str | None] = {}) -> Any:
    said = {**OURS, names.PARENT_LABEL: service, names.SHARD_LABEL: str(index), **labels}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names.shard_name(service, index),
            "labels": {key: value for key, value in said.items() if value is not None},
        },
        "data": {"k": "v"},
    }


def config_maps(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}".rstrip("/")


def denied(answer: Answer, words: str = "") -> bool:
    assert answer.status == 403, answer
    assert "ValidatingAdmissionPolicy 'trainedmodel-" in answer.text, answer
    assert words in answer.text, answer
    return True


def test_a_shard_may_be_made_changed_mended_and_deleted(operator: Asker, cluster: Cluster) -> None:
    folder, own = config_maps(cluster.namespace), config_maps(cluster.namespace, "tabular-models-0")
    assert operator("POST", folder, shard("tabular")).status == 201
    assert operator("PATCH", own, {"data": {"k": None, "l": "w"}}).status == 200
    cluster.kubectl("label", "cm", "tabular-models-0", f"{names.SHARD_LABEL}-", "team=a")
    mended = {"metadata": {"labels": {names.SHARD_LABEL: "0"}}}
    assert operator("PATCH", own, mended).status == 200
    assert operator("DELETE", own).status == 200


def test_a_config_map_of_somebody_else_is_neither_changed_nor_deleted(
    operator: Asker, cluster: Cluster
) -> None:
    cluster.kubectl("create", "cm", "aws-auth", "--from-literal=mapRoles=mine")
    cluster.kubectl("create", "cm", "tabular-models-1", "--from-literal=k=theirs")
    cluster.kubectl("create", "cm", "labelled", "--from-literal=k=theirs")
    cluster.kubectl("label", "cm", "labelled", f"{names.MANAGED_BY_LABEL}={names.MANAGED_BY}")
    take_over = {"metadata": {"labels": shard("tabular", 1)["metadata"]["labels"]}}
    for name in ("aws-auth", "tabular-models-1", "labelled"):
        path = config_maps(cluster.namespace, name)
        assert denied(operator("PATCH", path, {"data": {"k": "evil"}}), name)
        assert denied(operator("PATCH", path, take_over), name)
        assert denied(operator("DELETE", path), name)
        assert "evil" not in cluster.find("cm", name)["data"].values()


def test_nor_are_many_deleted_at_once_whatever_roles_are_added(
    control_plane: ControlPlane, cluster: Cluster
) -> None:
    namespace = cluster.namespace
    folder = config_maps(namespace)
    operator = account(control_plane, SYSTEM, OPERATOR)
    cluster.kubectl("create", "cm", "aws-auth", "--from-literal=mapRoles=mine")
    assert "cannot deletecollection" in operator("DELETE", folder).text
    subject = f"--serviceaccount={SYSTEM}:{OPERATOR}"
    cluster.kubectl("create", "rolebinding", "more", "--clusterrole=cluster-admin", subject)
    wait_until(lambda: "cannot deletecollection" not in operator("DELETE", folder).text)
    assert denied(operator("DELETE", f"{folder}?fieldSelector=metadata.name=aws-auth"), "aws-auth")
    assert cluster.find("cm", "aws-auth")


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({**shard("a"), "metadata": {"name": "a-models-0"}}, id="no labels"),
        pytest.param(shard("a", labels={names.MANAGED_BY_LABEL: "Helm"}), id="another's"),
        pytest.param(shard("a", labels={names.PARENT_LABEL: "b"}), id="another service"),
        pytest.param(shard("a", labels={names.SHARD_LABEL: None}), id="no shard"),
        pytest.param(shard("a", 4), id="a fifth shard"),
    ],
)
def test_no_config_map_is_made_that_is_no_shard(
    operator: Asker, cluster: Cluster, document: Any
) -> None:
    assert denied(operator("POST", config_maps(cluster.namespace), document), "only shards")


def test_a_shard_is_not_made_anothers(operator: Asker, cluster: Cluster) -> None:
    folder, own = config_maps(cluster.namespace), config_maps(cluster.namespace, "tabular-models-0")
    assert operator("POST", folder, shard("tabular")).status == 201
    for label in (names.MANAGED_BY_LABEL, names.PARENT_LABEL, names.SHARD_LABEL):
        assert denied(operator("PATCH", own, {"metadata": {"labels": {label: None}}}))


def test_no_lease_but_its_own_is_made(operator: Asker) -> None:
    folder = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {}}
    for metadata in ({"name": "kube-scheduler"}, {"generateName": "trainedmodel-operator"}):
        assert denied(operator("POST", folder, {**lease, "metadata": metadata}))
    own = {**lease, "metadata": {"name": OPERATOR}}
    assert operator("POST", folder, own).status == 201


def event(cluster: Cluster, **change: Any) -> Any:
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"event-{next(_numbers)}"},
        "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": "trainedmodel.dev/operator",
        "reportingInstance": "operator-0",
        "action": "Report",
        "reason": "Ready",
        "type": "Normal",
        "regarding": {
            "apiVersion": names.API_VERSION,
            "kind": "TrainedModel",
            "namespace": cluster.namespace,
            "name": "iris",
        },
        **change,
    }


def test_no_event_but_its_own_is_written(
    control_plane: ControlPlane, operator: Asker, cluster: Cluster
) -> None:
    folder = f"/apis/events.k8s.io/v1/namespaces/{cluster.namespace}/events"
    node = {"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": cluster.namespace}
    assert operator("POST", folder, event(cluster)).status == 201
    assert denied(operator("POST", folder, event(cluster, reportingController="kubelet")))
    assert denied(operator("POST", folder, event(cluster, regarding=node)))
    foreign = event(cluster, reportingController="kubelet", regarding=node)
    administrator = Asker(control_plane, control_plane.token)
    assert administrator("POST", folder, foreign).status == 201
    path = f"{folder}/{foreign['metadata']['name']}"
    series = {"series": {"count": 2, "lastObservedTime": foreign["eventTime"]}}
    assert denied(operator("PATCH", path, series))


def test_of_a_model_it_writes_the_status_and_nothing_else(
    operator: Asker, cluster: Cluster
) -> None:
    cluster.apply(trained_model("iris"))
    before = cluster.find("trainedmodel", "iris")
    path = f"/apis/{names.API_VERSION}/namespaces/{cluster.namespace}/trainedmodels/iris"
    change = {"spec": {"model": {"storageUri": "s3://evil/iris"}}, "status": {"state": "Loaded"}}
    change["metadata"] = {"labels": {"a": "b"}, "finalizers": ["a.b/c"]}
    assert operator("PATCH", path, change).status == 403
    assert operator("PATCH", f"{path}/status", change).status == 200
    after = cluster.find("trainedmodel", "iris")
    assert after["status"] == {"state": "Loaded"}
    assert after["spec"] == before["spec"]
    for field in ("labels", "finalizers"):
        assert after["metadata"].get(field) == before["metadata"].get(field)


def test_it_makes_its_own_secret_and_reads_no_other(operator: Asker) -> None:
    folder = f"/api/v1/namespaces/{SYSTEM}/secrets"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other"}}
    assert operator("POST", folder, secret).status == 403
    for path in (folder, f"{folder}/other"):
        assert operator("GET", path).status == 403


def test_it_has_the_right_that_every_pod_has_on_reports_and_may_not_use_it(
    operator: Asker, cluster: Cluster
) -> None:
    cluster.run_pod("p")
    cluster.report("p", {})
    folder = f"/apis/{names.API_VERSION}/namespaces/{cluster.namespace}/modelreports"
    forged = cluster.report_document("p", models={})
    assert denied(operator("DELETE", f"{folder}/p"))
    assert denied(operator("POST", folder, {**forged, "metadata": {"name": "q"}}))
    version = cluster.find("modelreport", "p")["metadata"]["resourceVersion"]
    forged["metadata"]["resourceVersion"] = version
    assert denied(operator("PUT", f"{folder}/p", forged))


def pods(cluster: Cluster, name: str) -> str:
    return f"/api/v1/namespaces/{cluster.namespace}/pods/{name}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spec": {"activeDeadlineSeconds": 5}}, "spec of pod p"),
        ({"metadata": {"finalizers": ["a.b/c"]}}, "finalizers or owners of pod p"),
        ({"metadata": {"ownerReferences": [{}]}}, "finalizers or owners of pod p"),
        ({"metadata": {"labels": {names.INJECT_LABEL: None}}}, "labels trainedmodel.dev/*"),
        ({"metadata": {"labels": {names.PARENT_LABEL: "other"}}}, "labels trainedmodel.dev/*"),
        ({"metadata": {"labels": {names.PARENT_POD_LABELS[0]: "x"}}}, "labels trainedmodel.dev/*"),
        ({"metadata": {"labels": {"pod-template-hash": "x"}}}, "pod-template-hash"),
        ({"metadata": {"annotations": {names.SERVER_ANNOTATION: "none"}}}, "annotations"),
    ],
)
def test_of_a_pod_it_changes_nothing_that_could_do_harm(
    operator: Asker, cluster: Cluster, change: Any, words: str
) -> None:
    cluster.run_pod("p")
    if "ownerReferences" in change["metadata" if "metadata" in change else "spec"]:
        uid = cluster.find("pod", "p")["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": uid}
        change = {"metadata": {"ownerReferences": [owner]}}
    answer = operator("PATCH", pods(cluster, "p"), change)
    assert denied(answer, words)
    assert "another webhook or policy changed the pod" in answer.text
    assert f"system:serviceaccount:{SYSTEM}:{OPERATOR}" in answer.text
    assert operator("PATCH", pods(cluster, "p"), ANNOTATE).status == 200


def mutation(name: str, expression: str, namespace: str) -> list[Any]:
    """Return a policy of the cluster that changes each pod of a namespace in each update."""
    api, metadata = "admissionregistration.k8s.io/v1beta1", {"name": name}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    policy = {
        "matchConstraints": {
            "resourceRules": [{**rule, "resources": ["pods"]}],
            "namespaceSelector": selector,
        },
        "reinvocationPolicy": "Never",
        "mutations": [
            {
                "patchType": "ApplyConfiguration",
                "applyConfiguration": {"expression": expression},
            }
        ],
    }
    kind = "MutatingAdmissionPolicy"
    return [
        {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": policy},
        {
            "apiVersion": api,
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "spec": {"policyName": name},
        },
    ]


def test_a_policy_that_labels_pods_in_each_update_does_not_stop_the_annotation(
    control_plane: ControlPlane, operator: Asker, cluster: Cluster
) -> None:
    cluster.run_pod("p")
    change = (
        'Object{metadata: Object.metadata{labels: {"cost-center": "a"}, '
        'annotations: {"policies.example.com/applied": "yes"}}}'
    )
    mark = control_plane.audit_mark()
    cluster.apply(*mutation("labels-pods", change, cluster.namespace))

    def labelled() -> bool:
        value = f"abc-{next(_numbers)}"
        body = {"metadata": {"annotations": {names.CONFIG_ANNOTATION: value}}}
        answer = operator("PATCH", pods(cluster, "p"), body)
        assert answer.status == 200, answer
        return "cost-center" in answer.document["metadata"]["labels"]

    wait_until(labelled, 60)
    log = control_plane.folder / "audit.log"

    def noted() -> list[str]:
        with log.open("rb") as file:
            file.seek(mark)
            lines = file.read().decode().splitlines()
        return [one for one in lines if "trainedmodel-operator-pod-metadata" in one]

    wait_until(noted)
    said = json.loads(noted()[0])["annotations"]
    assert "changed in a request of the operator" in " ".join(said.values())


def test_a_policy_that_changes_the_spec_is_named_as_what_may_be_at_fault(
    operator: Asker, cluster: Cluster
) -> None:
    cluster.run_pod("p")
    change = "Object{spec: Object.spec{activeDeadlineSeconds: 7200}}"
    cluster.apply(*mutation("changes-spec", change, cluster.namespace))

    def refusal() -> str:
        body = {"metadata": {"annotations": {names.CONFIG_ANNOTATION: f"{next(_numbers)}"}}}
        answer = operator("PATCH", pods(cluster, "p"), body)
        return answer.text if answer.status == 403 else ""

    assert "another webhook or policy changed the pod" in wait_until(refusal, 60)
