"""Reports in passes: read when they changed, told as they are, missing when they prove nothing."""

from __future__ import annotations

import asyncio

import pytest
from support.operator.builders import document, one
from support.operator.fake_kube import FakeKube, Operator
from trainedmodel_operator.api.report_cache import of_their_pods
from trainedmodel_operator.core.state import ServiceKey

pytestmark = pytest.mark.looptime


def loaded(*model_names: str) -> dict[str, dict[str, str]]:
    revisions = {name: one(name).model for name in model_names}
    return {
        name: {"state": "Loaded", "revision": model.revision()}
        for name, model in revisions.items()
        if model is not None
    }


async def test_reports_are_read_only_when_they_changed(operator: Operator, kube: FakeKube) -> None:
    kube.put_pod("pod-a", "tabular")
    kube.put_report("pod-a", "tabular", models=loaded("iris"))
    async with operator.serving("iris"):
        assert kube.calls["get_report"] == 1, "no event brought it: it is read"
        operator.report("pod-a", models=loaded("iris", "wine"))
        operator.apply(document("wine"))
        await asyncio.sleep(3)
        assert kube.calls["get_report"] == 1, "the event brought it"
        assert kube.models["wine"]["status"]["state"] == "Loaded"


async def test_a_report_that_is_gone_or_unusable_counts_as_missing(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_pod("pod-a", "tabular")
    operator.report("pod-a", models={"iris": {"state": 7}})
    async with operator.serving("iris"):
        assert kube.models["iris"]["status"]["reason"] == "ReportMissing"
        operator.report("pod-a", models=loaded("iris"))
        await asyncio.sleep(3)
        assert kube.models["iris"]["status"]["state"] == "Loaded"
        gone = kube.reports.pop("pod-a")
        operator.handlers.report_event({"type": "DELETED", "object": gone})
        await asyncio.sleep(3)
        assert kube.models["iris"]["status"]["reason"] == "ReportMissing"


async def test_a_report_that_vanishes_between_list_and_read_is_missing(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_pod("pod-a", "tabular")
    kube.put_report("pod-a", "tabular", models=loaded("iris"))
    key = ServiceKey("demo", "tabular")

    async def vanished(namespace: str, name: str) -> None:
        return None

    kube.get_report = vanished  # type: ignore[method-assign]
    assert await operator.reports.read(kube, key) == []


async def test_a_report_owned_by_a_pod_of_another_name_proves_nothing(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_report("pod-a", "tabular")["metadata"]["ownerReferences"][0]["name"] = "pod-b"
    found = await operator.reports.read(kube, ServiceKey("demo", "tabular"))
    assert of_their_pods(found, []) == {}


async def test_a_report_that_gives_another_pods_uid_does_not_take_its_place(
    operator: Operator, kube: FakeKube
) -> None:
    for pod in ("pod-a", "pod-b"):
        kube.put_pod(pod, "tabular")
    true = kube.put_report("pod-a", "tabular", models=loaded("iris"))
    lie = kube.put_report("pod-z", "tabular")
    lie["metadata"]["ownerReferences"][0]["uid"] = "uid-pod-a"
    found = await operator.reports.read(kube, ServiceKey("demo", "tabular"))
    assert len(found) == 2
    for order in (found, found[::-1]):
        kept = of_their_pods(order, kube.pods.values())
        assert kept["uid-pod-a"].metadata.name == true["metadata"]["name"]
