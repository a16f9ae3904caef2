"""Resyncs that find nothing cost a few lists, and those that must find something do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.operator.builders import KEY, document
from support.operator.fake_kube import FakeKube, Operator
from trainedmodel_contract import names
from trainedmodel_operator.core.shards.documents import seen_digest
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.reconcile.inventory import Inventory
from trainedmodel_operator.reconcile.resync import WHOLE_ROUNDS

pytestmark = pytest.mark.looptime

PARENTS = ("tabular", "text", "vision")
SURVEY = {"list_model_versions", "list_shard_metadata", "list_pod_metadata", "list_report_metadata"}


async def settled(operator: Operator, kube: FakeKube) -> None:
    """Give each service a model and a pod, and wait until a resync finds nothing to look at."""
    for service in PARENTS:
        operator.apply(document(f"{service}-model", service=service))
        kube.put_pod(f"{service}-pod", service)
    await asyncio.sleep(200)


async def calls_of_a_resync(kube: FakeKube) -> dict[str, int]:
    kube.calls.clear()
    await asyncio.sleep(60)
    return dict(kube.calls)


async def test_a_resync_that_finds_nothing_is_one_list_of_each_kind(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.running(resync=True):
        await settled(operator, kube)
        assert await calls_of_a_resync(kube) == dict.fromkeys(SURVEY, 1)


def change_model(kube: FakeKube) -> None:
    kube.put_model(document("text-model", service="text", generation=2, version="2"))


def delete_model(kube: FakeKube) -> None:
    del kube.models["text-model"]


def edit_shard(kube: FakeKube) -> None:
    kube.touch(kube.config_maps["text-models-0"])


def delete_shard(kube: FakeKube) -> None:
    del kube.config_maps["text-models-0"]


def add_pod(kube: FakeKube) -> None:
    kube.put_pod("text-pod-2", "text")


def delete_pod(kube: FakeKube) -> None:
    del kube.pods["text-pod"]


def add_report(kube: FakeKube) -> None:
    digest = seen_digest([(0, kube.config_maps["text-models-0"]["data"])])
    kube.put_report("text-pod", "text", configDigest=digest)


@pytest.mark.parametrize(
    "change",
    [change_model, delete_model, edit_shard, delete_shard, add_pod, delete_pod, add_report],
)
async def test_whatever_no_event_told_is_found_and_its_parent_alone_is_looked_at(
    operator: Operator, kube: FakeKube, change: Any
) -> None:
    async with operator.running(resync=True):
        await settled(operator, kube)
        looked: list[str] = []
        list_models = kube.list_models

        async def noted(namespace: str | None, service: str | None, **_: Any) -> Any:
            looked.append(str(service))
            return await list_models(namespace, service)

        kube.list_models = noted  # type: ignore[method-assign]
        change(kube)
        await asyncio.sleep(70)
        assert set(looked) == {"text"}
        await asyncio.sleep(130)
        kube.calls.clear()
        await asyncio.sleep(60)
        assert dict(kube.calls) == dict.fromkeys(SURVEY, 1), "and then it is settled again"


async def test_each_parent_is_looked_at_whole_now_and_then(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.running(resync=True):
        await settled(operator, kube)
        kube.calls.clear()
        await asyncio.sleep(60 * WHOLE_ROUNDS)
        assert kube.calls["list_models"] == len(PARENTS)


async def test_a_heartbeat_costs_no_pass(operator: Operator, kube: FakeKube) -> None:
    async with operator.running(resync=True):
        await settled(operator, kube)
        add_report(kube)
        await asyncio.sleep(130)
        kube.touch(kube.reports["text-pod"])
        assert await calls_of_a_resync(kube) == dict.fromkeys(SURVEY, 1)


async def test_a_parent_whose_pass_failed_is_looked_at_again(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.running(resync=True):
        await settled(operator, kube)
        assert operator.reconciler.is_settled(KEY, (await operator.inventory.look())[KEY])
        kube.touch(kube.models["tabular-model"])
        assert not operator.reconciler.is_settled(KEY, (await operator.inventory.look())[KEY])


async def test_a_survey_in_the_midst_of_a_pass_settles_nothing_that_the_pass_did_not_see(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.running(resync=True):
        await settled(operator, kube)
        add_report(kube)
        await asyncio.sleep(200)
        list_shards = kube.list_shards

        async def meanwhile(namespace: str | None, service: str | None, **_: Any) -> Any:
            shards = await list_shards(namespace, service)
            await asyncio.sleep(1)  # the pass has read the reports
            add_report(kube)  # and its event is lost
            await operator.inventory.look()
            return shards

        kube.list_shards = meanwhile  # type: ignore[method-assign]
        key = ServiceKey(KEY.namespace, "text")
        await operator.reconciler.reconcile(key, True)
        assert not operator.reconciler.is_settled(key, (await operator.inventory.look())[key])


async def test_a_survey_names_parents_of_models_and_of_shards_only(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_model(document("iris", service="tabular"))
    kube.put_pod("lonely", "no-models")
    kube.config_maps["gone-models-0"] = {
        "metadata": {
            "name": "gone-models-0",
            "namespace": "demo",
            "uid": "u",
            "resourceVersion": "1",
            "labels": {names.PARENT_LABEL: "gone"},
        }
    }
    found = await Inventory(kube, operator.reports).look()
    assert list(found) == [ServiceKey("demo", "gone"), ServiceKey("demo", "tabular")]


async def test_what_the_survey_saw_rings_nothing_when_a_watch_lists_it_first(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_model(document("iris"))
    await operator.inventory.look()
    triggered: list[Any] = []
    operator.handlers._enqueue = lambda key, trigger: triggered.append(key)
    assert operator.handlers.is_known({"type": None, "object": kube.models["iris"]})
    newer = {**kube.models["iris"], "metadata": {**kube.models["iris"]["metadata"]}}
    newer["metadata"].update(resourceVersion="999", generation=7)
    operator.handlers.model_event({"type": "MODIFIED", "object": newer})
    assert triggered == [KEY]


async def test_a_model_that_changed_between_survey_and_watch_rings(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_model(document("iris"))
    await operator.inventory.look()
    kube.put_model(document("iris", generation=2))
    triggered: list[Any] = []
    operator.handlers._enqueue = lambda key, trigger: triggered.append(key)
    operator.handlers.model_event({"type": None, "object": kube.models["iris"]})
    assert triggered == [KEY]


async def test_a_parent_whose_shard_names_are_taken_is_looked_at_by_every_resync(
    operator: Operator, kube: FakeKube
) -> None:
    for shard in names.shard_names("tabular"):
        kube.config_maps[shard] = {"metadata": {"name": shard, "resourceVersion": "1"}, "data": {}}
    async with operator.running(resync=True):
        operator.apply(document("iris"))
        await asyncio.sleep(200)
        del kube.config_maps["tabular-models-2"]
        await asyncio.sleep(70)
        assert "iris.json" in kube.config_maps["tabular-models-2"]["data"]
