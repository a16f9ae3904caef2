"""Passes over an API in memory, in virtual time: order, faults, races, pace."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.operator.builders import document
from support.operator.fake_kube import FakeKube, Operator, fails
from trainedmodel_contract import names
from trainedmodel_operator.core.pacing.windows import Trigger
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.errors import NotFound, Throttled, Unavailable

pytestmark = pytest.mark.looptime

SHARD = "tabular-models-0"


async def test_a_model_is_written_and_told_at_once(operator: Operator, kube: FakeKube) -> None:
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(0.1)
        assert "iris.json" in kube.config_maps[SHARD]["data"]
        assert kube.models["iris"]["status"]["state"] == "Pending"
        assert [kind for _, kind, _ in kube.writes] == ["shard", "status"]


async def test_a_pass_writes_shards_then_annotations_then_statuses(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_reporting_pod("pod-a", "tabular")
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(0.1)
    assert [kind for _, kind, _ in kube.writes] == ["shard", "nudge", "status"]


LISTS = ["list_models", "list_shards", "list_pods", "list_report_metadata"]


@pytest.mark.parametrize("method", LISTS)
async def test_o1_a_read_that_fails_aborts_the_pass_before_any_write(
    operator: Operator, kube: FakeKube, method: str
) -> None:
    kube.put_reporting_pod("pod-a", "tabular")
    kube.fault = fails(method)
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(5)
        assert kube.writes == []
        assert kube.calls["list_models"] >= 2, "it is tried again"
        kube.fault = fails()
        await asyncio.sleep(10)
        assert kube.count("status") == 1


async def test_a_racing_writer_turns_a_write_into_a_conflict_and_the_pass_is_made_again(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(3)

        def race() -> None:
            kube.before_write = lambda: None
            there = kube.config_maps[SHARD]
            there["data"] = {**there["data"], "iris.json": "by hand"}
            kube.touch(there)

        kube.before_write = race
        operator.apply(document("wine"))
        await asyncio.sleep(3)
        assert set(kube.config_maps[SHARD]["data"]) == {"_shard-0", "iris.json", "wine.json"}
        assert kube.config_maps[SHARD]["data"]["iris.json"] != "by hand"


async def test_a_racing_writer_of_annotations_costs_a_read_and_no_pass(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.serving("iris"):
        races = iter(range(6))

        def race() -> None:
            if next(races, None) is not None:
                kube.touch(kube.config_maps[SHARD])

        kube.before_write = race
        passes, reads = kube.calls["list_models"], kube.calls["get_config_map"]
        operator.apply(document("wine"))
        await asyncio.sleep(0.1)
        assert "wine.json" in kube.config_maps[SHARD]["data"]
        assert kube.calls["list_models"] == passes + 1
        assert kube.calls["get_config_map"] == reads + 6


async def test_a_racing_writer_who_never_rests_makes_a_pass_fail_and_not_hang(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.serving("iris"):
        kube.before_write = lambda: kube.touch(kube.config_maps[SHARD])
        operator.apply(document("wine"))
        await asyncio.sleep(10)
        assert kube.calls["write_shard"] > 100
        assert kube.calls["write_shard"] < 1000
        kube.before_write = lambda: None
        await asyncio.sleep(60)
        assert "wine.json" in kube.config_maps[SHARD]["data"]


async def test_o5_a_foreign_config_map_is_found_before_it_is_written(
    operator: Operator, kube: FakeKube
) -> None:
    foreign = {"metadata": {"name": SHARD, "resourceVersion": "1"}, "data": {"mine": "yes"}}
    kube.config_maps[SHARD] = foreign
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(1)
    assert kube.config_maps[SHARD] is foreign
    assert "iris.json" in kube.config_maps["tabular-models-1"]["data"]


async def test_a_model_that_moves_leaves_its_old_service(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_pod("pod-a", "tabular")
    async with operator.serving("iris"):
        operator.apply(document("iris", service="other", generation=2), "MODIFIED")
        await asyncio.sleep(3)
    assert set(kube.config_maps[SHARD]["data"]) == {"_shard-0"}
    assert "iris.json" in kube.config_maps["other-models-0"]["data"]


async def test_a_deleted_model_leaves_an_empty_shard_and_later_none_o8(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_pod("pod-a", "tabular")
    async with operator.running(resync=True):
        operator.apply(document("iris"))
        await asyncio.sleep(3)
        operator.delete("iris")
        await asyncio.sleep(3)
        assert set(kube.config_maps[SHARD]["data"]) == {"_shard-0"}
        kube.pods.clear()
        await asyncio.sleep(70)
        assert kube.config_maps == {}


async def test_our_own_status_writes_ring_nothing(operator: Operator, kube: FakeKube) -> None:
    async with operator.serving("iris"):
        passes = kube.calls["list_models"]
        operator.handlers.model_event({"type": "MODIFIED", "object": kube.models["iris"]})
        await asyncio.sleep(3)
        assert kube.calls["list_models"] == passes


async def test_a_resync_that_finds_everything_right_writes_nothing(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.running(resync=True):
        operator.apply(document("iris"))
        await asyncio.sleep(30)
        writes = len(kube.writes)
        await asyncio.sleep(600)
        assert len(kube.writes) == writes


async def test_a_resync_finds_what_no_event_told(operator: Operator, kube: FakeKube) -> None:
    kube.put_model(document("iris"))
    async with operator.running(resync=True):
        await asyncio.sleep(1)
        assert kube.count("status") == 1
        del kube.models["iris"]
        await asyncio.sleep(70)
        assert kube.config_maps == {}


async def test_a_resync_heals_an_edit_by_hand_and_is_retried_soon(
    operator: Operator, kube: FakeKube
) -> None:
    kube.fault = fails("list_reports")
    async with operator.running(resync=True):
        operator.apply(document("iris"))
        await asyncio.sleep(5)
        assert not operator.resync.has_begun.is_set()
        kube.fault = fails()
        await asyncio.sleep(20)
        assert operator.resync.has_begun.is_set()
        kube.config_maps[SHARD]["data"].pop("iris.json")
        kube.touch(kube.config_maps[SHARD])
        await asyncio.sleep(70)
        assert "iris.json" in kube.config_maps[SHARD]["data"]


async def test_a_failing_parent_delays_no_other_o4(operator: Operator, kube: FakeKube) -> None:
    list_shards, failures = kube.list_shards, iter([Unavailable("down")])

    async def fails_once_for_tabular(namespace: str | None, service: str | None, **_: Any) -> Any:
        if service == "tabular" and (error := next(failures, None)) is not None:
            raise error
        return await list_shards(namespace, service)

    kube.list_shards = fails_once_for_tabular  # type: ignore[method-assign]
    async with operator.running():
        operator.apply(document("iris"))
        operator.apply(document("wine", service="other"))
        await asyncio.sleep(0.5)
        assert set(kube.config_maps) == {"other-models-0"}
        await asyncio.sleep(2)
        assert set(kube.config_maps) == {"other-models-0", SHARD}


async def test_a_fault_of_our_own_is_backed_off_like_any_other(
    operator: Operator, kube: FakeKube
) -> None:
    kube.fault = fails("list_pods", error=KeyError("bug"))
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(10)
        assert 3 <= kube.calls["list_pods"] <= 5
        kube.fault = fails()
        await asyncio.sleep(20)
        assert kube.count("shard") == 1


async def test_a_busy_api_is_given_the_time_it_asks_for(operator: Operator, kube: FakeKube) -> None:
    kube.fault = fails("list_models", error=Throttled("busy", retry_after_s=30))
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(29)
        assert kube.calls["list_models"] == 1


async def test_an_idle_operator_has_no_workers(operator: Operator) -> None:
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(10)
        workers = [task for task in asyncio.all_tasks() if task.get_name().startswith("worker")]
        assert workers == []


async def test_a_bell_during_a_pass_is_a_pass_after_it(kube: FakeKube) -> None:
    kube.delay_s = 0.2
    operator = Operator(kube)
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(0.3)
        operator.apply(document("wine"))
        await asyncio.sleep(10)
        assert {"iris.json", "wine.json"} <= set(kube.config_maps[SHARD]["data"])


async def test_bells_before_the_start_are_not_lost(operator: Operator, kube: FakeKube) -> None:
    operator.apply(document("iris"))
    async with operator.running():
        await asyncio.sleep(1)
        assert kube.count("shard") == 1


async def test_a_lost_pod_is_not_nudged_and_harms_nobody(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_reporting_pod("pod-a", "tabular")
    kube.fault = fails("annotate_pod", error=NotFound("gone", 404))
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(1)
        assert kube.count("status") == 1


async def test_a_nudge_that_fails_delays_no_status(operator: Operator, kube: FakeKube) -> None:
    kube.put_reporting_pod("pod-a", "tabular")
    kube.fault = fails("annotate_pod")
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(0.2)
        assert kube.count("status") == 1
        assert kube.count("nudge") == 0
        kube.fault = fails()
        await asyncio.sleep(3)
        assert kube.count("nudge") == 1


async def test_a_pod_that_stays_behind_is_nudged_again(operator: Operator, kube: FakeKube) -> None:
    kube.put_reporting_pod("pod-a", "tabular")
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(12)
    assert kube.count("nudge") == 3
    assert kube.pods["pod-a"]["metadata"]["annotations"][names.CONFIG_ANNOTATION].endswith("/3")


async def test_stopping_in_the_middle_of_everything_is_prompt(kube: FakeKube) -> None:
    kube.delay_s = 100.0
    operator = Operator(kube)
    loop = asyncio.get_running_loop()
    async with operator.running(resync=True):
        operator.apply(document("iris"))
        await asyncio.sleep(50)
        began = loop.time()
    assert loop.time() - began < 0.1


async def test_metrics_count_passes_and_what_waits(operator: Operator, kube: FakeKube) -> None:
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(1)
        operator.queue.enqueue(ServiceKey("demo", "tabular"), Trigger.RESYNC)
        registry = operator.metrics.registry
        assert (
            registry.get_sample_value("trainedmodel_operator_queue_depth", {"queue": "services"})
            == 1
        )
        assert (
            registry.get_sample_value(
                "trainedmodel_operator_reconcile_seconds_count", {"result": "success"}
            )
            == 1
        )
