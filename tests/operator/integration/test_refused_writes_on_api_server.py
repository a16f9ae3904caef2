"""Writes that a real API server refuses: told where their owner looks, alone in waiting, and cured.

A quota, an admission policy and an immutable ConfigMap refuse shards; a policy refuses a pod's
annotation. Each time a healthy neighbour is there, in the same service or the same namespace.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from support.operator.on_cluster import Cluster
from trainedmodel_contract import names
from trainedmodel_contract.conditions import find_condition
from trainedmodel_devkit.documents import admission_policy, loaded, trained_model
from trainedmodel_devkit.operatorprocess import OperatorProcess
from trainedmodel_devkit.waiting import wait_until
from trainedmodel_operator.core.shards.documents import seen_digest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(480)]

StartOperator = Callable[..., AbstractContextManager[OperatorProcess]]
#: The longest pause between two tries is a minute; the machine may be busy.
CURED_S = 120


def accepted(cluster: Cluster, name: str) -> dict[str, Any]:
    return dict(find_condition(cluster.status(name), "Accepted"))


def wait_for_refusal(cluster: Cluster, name: str) -> str:
    wait_until(lambda: accepted(cluster, name).get("reason") == "ShardRefused")
    assert accepted(cluster, name)["status"] == "False"
    return str(accepted(cluster, name)["message"])


def wait_for_cure(cluster: Cluster, name: str, service: str) -> None:
    wait_until(lambda: f"{name}.json" in cluster.data(service=service), CURED_S)
    wait_until(lambda: accepted(cluster, name).get("status") == "True")


def events(cluster: Cluster, name: str) -> list[str]:
    text = cluster.kubectl("get", "events.events.k8s.io", "-o", "json")
    items = json.loads(text)["items"]
    return [one["reason"] for one in items if one["regarding"]["name"] == name]


@contextlib.contextmanager
def refusing(cluster: Cluster, resource: str, operations: list[str], rule: str) -> Iterator[None]:
    """Refuse requests in the namespace that do not fulfil a rule, by an admission policy."""
    name = f"refuse-{cluster.namespace}-{resource}"
    documents = admission_policy(
        name,
        cluster.namespace,
        [resource],
        rule=rule,
        message="the platform team says no",
        operations=operations,
    )
    cluster.apply(*documents)
    try:
        yield
    finally:
        cluster.kubectl(
            "delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", name
        )


def test_a_quota_on_config_maps_is_told_and_its_rise_is_found(
    cluster: Cluster, start_operator: StartOperator
) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}}

    def allow(count: int) -> None:
        cluster.apply({**quota, "spec": {"hard": {"count/configmaps": str(count)}}})

    with start_operator() as operator:
        cluster.apply(trained_model("good", service="served"))
        wait_until(lambda: "good.json" in cluster.data(service="served"))
        cluster.run_pod("served-0", "served")
        digest = seen_digest([(0, cluster.data(service="served"))])
        cluster.report("served-0", loaded([trained_model("good")]), "served", configDigest=digest)
        there = len(json.loads(cluster.kubectl("get", "configmaps", "-o", "json"))["items"])
        allow(there)
        wait_until(lambda: _is_full(cluster, there))
        cluster.apply(trained_model("new", service="other"))
        message = wait_for_refusal(cluster, "new")
        assert "exceeded quota: q" in message
        assert "ConfigMap other-models-0" in message
        wait_until(lambda: events(cluster, "new") == ["ShardRefused"])
        cluster.apply(trained_model("more", service="served"))
        wait_until(lambda: "more.json" in cluster.data(service="served"))
        written = cluster.find("trainedmodels.trainedmodel.dev", "new")["metadata"]
        wait_until(lambda: operator.log().count("shard_not_written") >= 4)
        again = cluster.find("trainedmodels.trainedmodel.dev", "new")["metadata"]
        assert again["resourceVersion"] == written["resourceVersion"], "told once"
        allow(there + 5)
        wait_for_cure(cluster, "new", "other")
        assert "pass_failed" not in operator.log()


def _is_full(cluster: Cluster, count: int) -> bool:
    used = (cluster.find("resourcequota", "q").get("status") or {}).get("used") or {}
    return bool(used.get("count/configmaps") == str(count))


def test_an_admission_policy_refuses_one_shard_of_a_service_and_the_other_one_is_served(
    cluster: Cluster, start_operator: StartOperator
) -> None:
    def large(name: str) -> Any:
        """Three of these fill a shard."""
        return trained_model(name, parameters={f"p{n}": "x" * 4096 for n in range(64)})

    with start_operator():
        for name in ("m1", "m2", "m3"):
            cluster.kubectl("create", "-f", "-", documents=[large(name)])
        wait_until(lambda: {"m1.json", "m2.json", "m3.json"} <= set(cluster.data()))
        cluster.run_pod("pod-a")
        cluster.report("pod-a", {}, configDigest="older")
        rule = "object.metadata.name != 'tabular-models-0'"
        with refusing(cluster, "configmaps", ["CREATE", "UPDATE"], rule):
            wait_until(
                lambda: "says no" in cluster.refusal("label", "cm", "tabular-models-0", "a=b")
            )
            before = nudge(cluster, "pod-a")
            cluster.kubectl("create", "-f", "-", documents=[large("m4")])
            cluster.apply(trained_model("small"))
            wait_until(lambda: "m4.json" in cluster.data(1))
            message = wait_for_refusal(cluster, "small")
            assert "the platform team says no" in message
            wait_until(lambda: accepted(cluster, "m4").get("status") == "True")
            wait_until(lambda: nudge(cluster, "pod-a") not in {before, None})
            assert accepted(cluster, "m1")["status"] == "True"
            cluster.report("pod-a", loaded([large("m1")]))
            wait_until(lambda: cluster.status("m1").get("state") == "Loaded")
        wait_for_cure(cluster, "small", "tabular")


def nudge(cluster: Cluster, pod: str) -> str | None:
    annotations = cluster.find("pod", pod)["metadata"].get("annotations") or {}
    value: str | None = annotations.get(names.CONFIG_ANNOTATION)
    return value


def test_an_immutable_shard_keeps_its_models_says_so_and_is_made_anew_once_it_is_deleted(
    cluster: Cluster, start_operator: StartOperator
) -> None:
    with start_operator(resync_s=2):
        cluster.apply(trained_model("iris"))
        wait_until(lambda: "iris.json" in cluster.data())
        cluster.kubectl("patch", "cm", "tabular-models-0", "-p", '{"immutable": true}')
        cluster.apply(trained_model("iris", version="2"), trained_model("wine"))
        message = wait_for_refusal(cluster, "wine")
        assert "immutable" in message
        message = wait_for_refusal(cluster, "iris")
        assert message.endswith("The last good entry stays in force.")
        cluster.apply(trained_model("else", service="other"))
        wait_until(lambda: "else.json" in cluster.data(service="other"))
        cluster.kubectl("delete", "cm", "tabular-models-0")
        wait_for_cure(cluster, "wine", "tabular")
        wait_for_cure(cluster, "iris", "tabular")


def test_a_pod_that_may_not_be_annotated_delays_no_shard_and_no_other_pod(
    cluster: Cluster, start_operator: StartOperator
) -> None:
    rule = "!(has(object.metadata.labels) && 'frozen' in object.metadata.labels)"
    with start_operator() as operator, refusing(cluster, "pods", ["UPDATE"], rule):
        cluster.apply(trained_model("m0"))
        wait_until(lambda: "m0.json" in cluster.data())
        cluster.run_pod("free")
        cluster.run_pod("stuck", labels={"frozen": "yes"})
        for pod in ("free", "stuck"):
            cluster.report(pod, loaded([trained_model("m0")]), configDigest="older")
        wait_until(lambda: "pod_not_nudged" in operator.log())
        refusals = operator.log().count("pod_not_nudged")
        for n in range(1, 5):
            cluster.apply(trained_model(f"m{n}"))
            wait_until(lambda n=n: f"m{n}.json" in cluster.data())  # type: ignore[misc]
            digest = seen_digest([(0, cluster.data())])
            wait_until(lambda d=digest: (nudge(cluster, "free") or "").startswith(d))  # type: ignore[misc]
        assert "pass_failed" not in operator.log()
        assert operator.log().count("pod_not_nudged") <= refusals + 6, "and is tried seldom"
