"""What a Pod document proves, as kubelets of all kinds write it."""

from __future__ import annotations

from typing import Any

import pytest
from trainedmodel_contract import names
from trainedmodel_operator.core.pods import Readiness, readiness, server_memory

GIB = 2**30


def pod(ready: str | None, since: str | None = None, began: str | None = None) -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready, "lastTransitionTime": since}
    others = [{"type": "PodScheduled", "status": "True"}]
    status = {"startTime": began, "conditions": [*others, *([condition] if ready else [])]}
    return {"metadata": {"name": "a", "uid": "u"}, "status": status}


BEGAN = "2026-03-01T12:00:00Z"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (pod("False", BEGAN, BEGAN), Readiness.NEVER),
        (pod("False", "2026-03-01T12:00:01Z", BEGAN), Readiness.NEVER),
        (pod("True", "2026-03-01T12:00:40Z", BEGAN), Readiness.REACHED),
        (pod("False", "2026-03-01T12:05:00Z", BEGAN), Readiness.REACHED),
        (pod("Unknown", "2026-03-01T12:05:00Z", BEGAN), Readiness.REACHED),
        (pod("False", BEGAN, None), Readiness.REACHED),
        (pod("False", None, BEGAN), Readiness.REACHED),
        (pod("False", "yesterday", BEGAN), Readiness.REACHED),
        (pod("False", BEGAN, "2026-03-01T12:00:00"), Readiness.REACHED),
        (pod(None), Readiness.UNTOLD),
        ({"metadata": {}}, Readiness.UNTOLD),
        ({"metadata": {}, "status": {"conditions": None}}, Readiness.UNTOLD),
    ],
    ids=[
        "not ready since its start",
        "the second turned meanwhile",
        "ready",
        "was ready and crashed",
        "its node is lost",
        "no start",
        "no transition",
        "no time",
        "a time without a zone",
        "no word of ready",
        "no status",
        "no conditions",
    ],
)
def test_how_far_a_pod_has_come(document: dict[str, Any], expected: Readiness) -> None:
    assert readiness(document) is expected


def container(name: str, memory: object = None) -> dict[str, Any]:
    limits = {} if memory is None else {"resources": {"limits": {"memory": memory}}}
    return {"name": name, **limits}


def at_models(told: dict[str, Any]) -> dict[str, Any]:
    return {**told, "volumeMounts": [{"name": "v", "mountPath": "/mnt/models/"}]}


def in_all(told: dict[str, Any], memory: str) -> dict[str, Any]:
    """Give the whole pod a limit (pod-level resources)."""
    return {**told, "spec": {**told["spec"], "resources": {"limits": {"memory": memory}}}}


def with_containers(
    *containers: dict[str, Any], server: str | None = None, main: str | None = None
) -> dict[str, Any]:
    annotations = {} if server is None else {names.CONTAINER_ANNOTATION: server}
    if main is not None:
        annotations["kubectl.kubernetes.io/default-container"] = main
    return {"metadata": {"annotations": annotations}, "spec": {"containers": list(containers)}}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (with_containers(container("a", "1Gi"), container("b", "2Gi"), server="b"), 2 * GIB),
        (with_containers(container("a", "1Gi"), container("kserve-container", "2Gi")), 2 * GIB),
        (with_containers(container("puller", "1Gi"), container("b", "2Gi")), 2 * GIB),
        (with_containers(container("trainedmodel-puller", "1Gi"), container("b", 7)), 7),
        (with_containers(container("a", "1Gi"), container("b", "2Gi")), None),
        (with_containers(container("istio-proxy", "1Gi"), container("b", "2Gi")), 2 * GIB),
        (with_containers(container("linkerd-proxy", "250Mi"), container("b", "2Gi")), 2 * GIB),
        (with_containers(container("a", "64Mi"), container("b", "2Gi"), main="b"), 2 * GIB),
        (with_containers(container("a", "64Mi"), at_models(container("b", "2Gi"))), 2 * GIB),
        (in_all(with_containers(container("a", "3Gi")), "2Gi"), 2 * GIB),
        (in_all(with_containers(container("a")), "2Gi"), 2 * GIB),
        (with_containers(container("a", "1Gi"), server="gone"), None),
        (with_containers(container("a")), None),
        (with_containers(container("a", "plenty")), None),
        (with_containers({"name": "a", "resources": None}), None),
        (with_containers(container("puller", "1Gi")), None),
        (with_containers(), None),
        ({"metadata": {}}, None),
    ],
    ids=[
        "the annotation names it",
        "kserve's",
        "the only one beside a puller",
        "the only one beside the webhook's puller",
        "two could be meant, so none is guessed",
        "behind istio's proxy",
        "behind linkerd's proxy",
        "the main one, behind an exporter",
        "the one that has the model folder",
        "the whole pod may use less",
        "only the whole pod has a limit",
        "the annotation names none",
        "no limit",
        "no quantity",
        "no resources",
        "a puller alone",
        "no containers",
        "no spec",
    ],
)
def test_the_memory_limit_of_the_model_server(
    document: dict[str, Any], expected: int | None
) -> None:
    assert server_memory(document) == expected
