"""Who may see and write a ModelReport: its own pod, people with rights, and nobody else."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

import pytest
from support.asking import APPLY, JSON_PATCH, MERGE, Answer, Asker, account
from support.operator.on_cluster import Cluster
from trainedmodel_contract import names
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SECRET = "s3://a-bucket-of-tenant-a/iris: AccessDenied"
TRIED = {
    "apiVersion": "v1",
    "kind": "DeleteOptions",
    "dryRun": ["All"],
    "propagationPolicy": "Foreground",
}
_numbers = itertools.count()


def reports(namespace: str, name: str = "") -> str:
    return f"/apis/{names.API_VERSION}/namespaces/{namespace}/modelreports/{name}".rstrip("/")


@dataclass
class Tenant:
    """A namespace with one pod, and what is asked with that pod's token."""

    cluster: Cluster
    pod: str
    ask: Asker

    @property
    def own(self) -> str:
        return reports(self.cluster.namespace, self.pod)

    def document(self, **metadata: Any) -> Any:
        document = self.cluster.report_document(self.pod, models={})
        document["metadata"].update(metadata)
        return document

    def stored(self) -> Any:
        return self.cluster.find("modelreport", self.pod)


@pytest.fixture(scope="module")
def tenants(control_plane: ControlPlane) -> tuple[Tenant, Tenant]:
    """Tenants a and b; a's pod has written a report."""

    def tenant(letter: str) -> Tenant:
        namespace = f"tenant-{letter}-{next(_numbers)}"
        control_plane.kubectl("create", "namespace", namespace)
        cluster = Cluster(control_plane, namespace)
        pod = f"pod-{letter}"
        cluster.run_pod(pod)
        return Tenant(cluster, pod, account(control_plane, namespace, "default", pod=pod))

    first, second = tenant("a"), tenant("b")
    path = reports(first.cluster.namespace)
    failed = {"state": "Failed", "message": SECRET}
    sent = {**first.document(), "models": {"iris": failed}}
    wait_until(lambda: first.ask("POST", path, sent).status == 201)
    return first, second


@pytest.fixture
def a(tenants: tuple[Tenant, Tenant]) -> Tenant:
    return tenants[0]


@pytest.fixture
def b(tenants: tuple[Tenant, Tenant]) -> Tenant:
    return tenants[1]


COPY = {"op": "copy", "from": "/models", "path": "/metadata/labels"}
COPY_ONE = {"op": "copy", "from": "/models/iris", "path": "/metadata/labels"}
ODD: Any = {"metadata": {"labels": {"a": {}}}}


@pytest.mark.parametrize(
    ("method", "query", "body", "kind"),
    [
        pytest.param("GET", "", None, MERGE, id="get"),
        pytest.param("PATCH", "", {}, MERGE, id="patch of nothing"),
        pytest.param("PATCH", "", ODD, MERGE, id="patch that does not fit"),
        pytest.param("PATCH", "?dryRun=All", ODD, MERGE, id="tried patch that does not fit"),
        pytest.param("PATCH", "", [COPY], JSON_PATCH, id="json patch that does not fit"),
        pytest.param("PATCH", "", [COPY_ONE], JSON_PATCH, id="json patch that is invalid"),
        pytest.param("PATCH", "?fieldManager=b&force=true", {}, APPLY, id="apply"),
        pytest.param("DELETE", "", None, MERGE, id="delete"),
        pytest.param("DELETE", "?dryRun=All", TRIED, MERGE, id="tried delete"),
    ],
)
def test_a_pod_is_told_nothing_of_the_report_of_another_tenant(
    tenants: tuple[Tenant, Tenant], method: str, query: str, body: Any, kind: str
) -> None:
    a, b = tenants
    if kind is APPLY:
        body = {**a.document(), "models": {"iris": {"state": "Loaded"}}}
    answer = b.ask(method, a.own + query, body, kind)
    assert answer.status == 403, answer
    assert "a-bucket" not in answer.text
    assert a.stored()["models"]["iris"]["message"] == SECRET


def test_nor_by_writing_it(a: Tenant, b: Tenant) -> None:
    version = a.stored()["metadata"]["resourceVersion"]
    odd: Any = {"labels": {"a": {}}}
    for metadata in ({}, {"resourceVersion": version}, {"resourceVersion": "1"}, odd):
        answer = b.ask("PUT", a.own, a.document(**metadata))
        assert answer.status >= 400, answer
        assert "a-bucket" not in answer.text
    owned = a.document(resourceVersion=version)
    assert "may write only the ModelReport of its own name" in b.ask("PUT", a.own, owned).text
    assert a.stored()["models"]["iris"]["message"] == SECRET


def test_nor_by_asking_for_many(a: Tenant, b: Tenant) -> None:
    namespace = a.cluster.namespace
    for path in (reports(namespace), f"/apis/{names.API_VERSION}/modelreports"):
        for query in ("", "?watch=true&timeoutSeconds=1"):
            assert b.ask("GET", path + query).status == 403
    assert b.ask("DELETE", reports(namespace)).status == 403


def test_a_pod_reads_and_writes_its_own(a: Tenant) -> None:
    read = a.ask("DELETE", a.own, TRIED)
    assert read.status == 200
    document = read.document
    assert document["models"]["iris"]["message"] == SECRET
    document["metadata"] = a.document(resourceVersion=document["metadata"]["resourceVersion"])[
        "metadata"
    ]
    assert a.ask("PUT", a.own, {**document, "configDigest": "new"}).status == 200
    assert a.stored()["configDigest"] == "new"


def test_a_token_that_is_bound_to_no_pod_writes_none(
    control_plane: ControlPlane, a: Tenant
) -> None:
    ask = account(control_plane, a.cluster.namespace, "default")
    version = a.stored()["metadata"]["resourceVersion"]
    for answer in (
        ask("POST", reports(a.cluster.namespace), a.document()),
        ask("PUT", a.own, a.document(resourceVersion=version)),
        ask("DELETE", a.own, TRIED),
    ):
        assert answer.status == 403
        assert "bound to its pod" in answer.text


def test_a_pod_deletes_no_report_not_even_its_own(a: Tenant) -> None:
    for options in (None, {**TRIED, "dryRun": []}):
        answer = a.ask("DELETE", a.own, options)
        assert answer.status == 403
        assert "may not delete a ModelReport" in answer.text
    assert a.stored()["metadata"].get("deletionTimestamp") is None


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"finalizers": ["example.com/for-ever"]}, "finalizers"),
        ({"ownerReferences": []}, "only owner reference"),
        ({"labels": {"app.kubernetes.io/managed-by": "Helm"}}, "labels"),
        ({"labels": {names.PARENT_LABEL: "other"}}, "labels"),
    ],
)
def test_a_pod_does_not_make_its_report_outlive_it_or_seem_anothers(
    a: Tenant, b: Tenant, metadata: dict[str, Any], words: str
) -> None:
    created = b.ask("POST", reports(b.cluster.namespace), b.document(**metadata))
    version = a.stored()["metadata"]["resourceVersion"]
    updated = a.ask("PUT", a.own, a.document(resourceVersion=version, **metadata))
    for answer in (created, updated):
        assert answer.status == 403, answer
        assert words in answer.text


def test_what_an_administrator_put_on_a_report_does_not_stop_its_pod(a: Tenant) -> None:
    theirs = {"finalizers": ["example.com/kept"], "labels": {"velero.io/restore-name": "r"}}
    a.cluster.kubectl(
        *("patch", "modelreport", a.pod, "--type=merge"), "-p", json.dumps({"metadata": theirs})
    )
    version = a.stored()["metadata"]["resourceVersion"]
    dropped = a.ask("PUT", a.own, a.document(resourceVersion=version, labels=theirs["labels"]))
    assert "finalizers" in dropped.text
    handed_on = a.document(resourceVersion=version, **theirs)
    assert a.ask("PUT", a.own, handed_on).status == 200
    gone = {"metadata": {"finalizers": None}}
    a.cluster.kubectl("patch", "modelreport", a.pod, "--type=merge", "-p", json.dumps(gone))


@pytest.mark.parametrize("by", ["ClusterRoleBinding", "RoleBinding"])
def test_a_backup_tool_restores_reports(control_plane: ControlPlane, b: Tenant, by: str) -> None:
    """With the rights of an administrator of the cluster, or of the namespace alone."""
    namespace, name = b.cluster.namespace, f"backup-{by.lower()}"
    b.cluster.kubectl("create", "serviceaccount", name)
    command = "clusterrolebinding" if by == "ClusterRoleBinding" else "rolebinding"
    subject = f"--serviceaccount={namespace}:{name}"
    b.cluster.kubectl("create", command, name, "--clusterrole=cluster-admin", subject)
    ask = account(control_plane, namespace, name)
    document = b.document(
        name=f"restored-{by.lower()}",
        labels={"velero.io/restore-name": "r", "app.kubernetes.io/managed-by": "velero"},
        finalizers=["example.com/kept"],
    )
    path = reports(namespace, document["metadata"]["name"])

    def restored() -> Answer:
        return ask("POST", reports(namespace), document)

    wait_until(lambda: restored().status in {201, 409})
    assert ask("PATCH", path, {"metadata": {"finalizers": None}}).status == 200
    assert ask("DELETE", path).status == 200


def test_a_pod_takes_over_the_report_of_an_earlier_pod_of_its_name(
    control_plane: ControlPlane, cluster: Cluster
) -> None:
    """A StatefulSet's pods have one name after the other, and their reports too."""
    for pod in ("web-0", "earlier"):
        cluster.run_pod(pod)
    left = cluster.report_document("earlier", models={"iris": {"state": "Loaded"}})
    left["metadata"]["name"] = "web-0"
    cluster.apply(left)
    ask = account(control_plane, cluster.namespace, "default", pod="web-0")
    path = reports(cluster.namespace, "web-0")
    read = ask("DELETE", path, TRIED)
    assert read.status == 200, read
    document = cluster.report_document("web-0", models={})
    document["metadata"]["resourceVersion"] = read.document["metadata"]["resourceVersion"]
    assert ask("PUT", path, document).status == 200
    [owner] = cluster.find("modelreport", "web-0")["metadata"]["ownerReferences"]
    assert owner["uid"] == cluster.find("pod", "web-0")["metadata"]["uid"]


def test_a_report_goes_with_its_pod(control_plane: ControlPlane, cluster: Cluster) -> None:
    cluster.run_pod("brief")
    ask = account(control_plane, cluster.namespace, "default", pod="brief")
    document = cluster.report_document("brief", models={})
    assert ask("POST", reports(cluster.namespace), document).status == 201
    cluster.kubectl("delete", "pod", "brief", "--grace-period=0", "--force")
    wait_until(lambda: cluster.find("modelreport", "brief") is None, 60)
