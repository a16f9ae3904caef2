"""Silence: told from peace by heartbeats, on the operator's own clock, at no cost.

Time is virtual here, so hours pass in a blink.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.operator.builders import document, one
from support.operator.fake_kube import FakeKube, Operator
from trainedmodel_contract import names
from trainedmodel_contract.conditions import find_condition
from trainedmodel_contract.modelreport import heartbeat_period
from trainedmodel_operator.core.shards.documents import seen_digest
from trainedmodel_operator.core.staleness import (
    BLIND_AFTER,
    LastSeen,
    missed_observations,
    observe,
    staleness,
)
from trainedmodel_operator.errors import Unavailable

pytestmark = pytest.mark.looptime

BEATING = {
    names.HEARTBEAT_ANNOTATION: "2026-03-01T12:00:00Z",
    names.HEARTBEAT_SECONDS_ANNOTATION: "60",
}


def lasted(seconds: float, annotations: dict[str, str]) -> bool | None:
    found = staleness(LastSeen("7", 100.0), annotations, 100.0 + seconds)
    return None if found is None else found.is_stale


def test_a_report_is_stale_after_three_minutes_without_a_change() -> None:
    assert lasted(179, BEATING) is False
    assert lasted(180, BEATING) is True


def test_one_that_promised_less_is_given_three_of_its_own_periods() -> None:
    rare = {**BEATING, names.HEARTBEAT_SECONDS_ANNOTATION: "155"}
    assert lasted(464, rare) is False
    assert lasted(465, rare) is True
    often = {**BEATING, names.HEARTBEAT_SECONDS_ANNOTATION: "1"}
    assert lasted(179, often) is False


def test_one_that_promised_nothing_is_never_stale() -> None:
    assert lasted(10**9, {}) is None
    assert lasted(10**9, {names.HEARTBEAT_SECONDS_ANNOTATION: "60"}) is None
    assert lasted(10**9, {names.HEARTBEAT_ANNOTATION: "2026-03-01T12:00:00Z"}) is None


@given(st.text(max_size=8))
def test_a_promise_that_a_hand_wrote_is_none_or_less_than_a_day_or_so(text: str) -> None:
    period = heartbeat_period({**BEATING, names.HEARTBEAT_SECONDS_ANNOTATION: text})
    assert period is None or 0 < period.total_seconds() < 100_000


def test_what_counts_is_a_change_and_not_the_time_that_is_written() -> None:
    assert observe(LastSeen("7", 1.0), "7", 50.0, missed_observations=False) == LastSeen("7", 1.0)
    assert observe(LastSeen("7", 1.0), "8", 50.0, missed_observations=False) == LastSeen("8", 50.0)
    assert observe(None, "7", 50.0, missed_observations=False) == LastSeen("7", 50.0)


def test_what_could_not_be_watched_is_not_judged() -> None:
    assert missed_observations(None, 50.0)
    assert not missed_observations(0.0, BLIND_AFTER.total_seconds())
    assert missed_observations(0.0, BLIND_AFTER.total_seconds() + 1)
    assert observe(LastSeen("7", 1.0), "7", 500.0, missed_observations=True) == LastSeen("7", 500.0)


def loaded(name: str = "iris") -> dict[str, dict[str, str]]:
    model = one(name).model
    assert model is not None
    return {name: {"state": "Loaded", "revision": model.revision()}}


def put_beating(operator: Operator, name: str = "pod-a") -> None:
    operator.kube.put_pod(name, "tabular")
    operator.report(name, models=loaded())
    operator.kube.reports[name]["metadata"]["annotations"] = dict(BEATING)


def beat(operator: Operator, name: str = "pod-a") -> None:
    """Change the metadata, as the API server does for an annotation: no generation, a version."""
    metadata = operator.kube.reports[name]["metadata"]
    operator.kube.reports[name] = {
        **operator.kube.reports[name],
        "metadata": {**metadata, "resourceVersion": operator.kube.next_version()},
    }
    operator.handlers.report_event({"type": "MODIFIED", "object": operator.kube.reports[name]})


def seen(kube: FakeKube) -> str:
    shard = kube.config_maps["tabular-models-0"]["data"]
    return seen_digest([(0, shard)])


def ready(kube: FakeKube) -> tuple[Any, Any]:
    status = kube.models["iris"]["status"]
    condition = find_condition(status, "Ready")
    return condition["status"], status.get("reason")


async def test_a_puller_that_falls_silent_is_noticed_and_believed_again(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.running(resync=True):
        put_beating(operator)
        operator.apply(document("iris"))
        for _ in range(10):
            await asyncio.sleep(60)
            beat(operator)
        assert ready(kube) == ("True", None)
        writes = kube.count("status")
        await asyncio.sleep(150)
        assert ready(kube) == ("True", None)
        await asyncio.sleep(130)
        assert ready(kube) == ("Unknown", "ReportStale")
        assert kube.count("status") == writes + 1
        await asyncio.sleep(3600)
        assert kube.count("status") == writes + 1, "it does not change with every minute"
        beat(operator)
        await asyncio.sleep(75)
        assert ready(kube) == ("True", None)


async def test_heartbeats_ring_no_bell_and_cost_no_read(operator: Operator, kube: FakeKube) -> None:
    async with operator.running():
        put_beating(operator)
        operator.apply(document("iris"))
        await asyncio.sleep(3)
        operator.report("pod-a", models=loaded(), configDigest=seen(kube))
        await asyncio.sleep(30)
        before = kube.calls.copy()
        for _ in range(50):
            beat(operator)
            await asyncio.sleep(1)
        assert kube.calls == before
        operator.apply(document("wine"))
        await asyncio.sleep(1)
        assert kube.calls["get_report"] == before["get_report"]


async def test_an_older_puller_is_never_called_stale(operator: Operator, kube: FakeKube) -> None:
    async with operator.running(resync=True):
        kube.put_pod("pod-a", "tabular")
        operator.report("pod-a", models=loaded())
        operator.apply(document("iris"))
        await asyncio.sleep(7200)
        assert ready(kube) == ("True", None)


async def test_an_api_server_that_was_away_makes_nobody_stale(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.running(resync=True):
        put_beating(operator)
        operator.apply(document("iris"))
        await asyncio.sleep(60)
        kube.fault = lambda _: Unavailable("down")
        await asyncio.sleep(1800)
        kube.fault = lambda _: None
        await asyncio.sleep(100)
        assert ready(kube) == ("True", None), "the pullers could not write either"
        await asyncio.sleep(200)
        assert ready(kube) == ("Unknown", "ReportStale")


async def test_a_pod_that_is_gone_leaves_no_doubt_behind(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.running(resync=True):
        put_beating(operator)
        put_beating(operator, "pod-b")
        operator.apply(document("iris"))
        await asyncio.sleep(3)
        del kube.pods["pod-b"]
        for _ in range(10):
            await asyncio.sleep(60)
            beat(operator)
        assert ready(kube) == ("True", None), "its report remains until it is collected"
        assert kube.models["iris"]["status"]["copies"]["summary"] == "1/1"
