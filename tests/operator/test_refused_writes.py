"""Writes that fail in a pass, over an API in memory: each is put off by itself, nothing waits.

How real refusals look and what cures them is tested on a real API server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.operator.builders import document
from support.operator.fake_kube import FakeKube, Operator
from trainedmodel_contract import names
from trainedmodel_contract.conditions import find_condition
from trainedmodel_operator.core.shards.documents import ShardWrite
from trainedmodel_operator.errors import ApiError, Conflict, NotFound, Refused, Unavailable
from trainedmodel_operator.reconcile import shard_writer

pytestmark = pytest.mark.looptime

SHARD = "tabular-models-0"
SECOND = "tabular-models-1"
Failing = Callable[[str], Exception | None]


def refused(words: str = "exceeded quota: q") -> ApiError:
    error = Refused(f"POST /x: 403 {words}", 403)
    error.said = words
    return error


def refuse_shards(kube: FakeKube, failing: Failing) -> list[tuple[float, str]]:
    """Let writes of some shards fail; return the tries, as they come."""
    write_shard = kube.write_shard
    tries: list[tuple[float, str]] = []

    async def write(namespace: str, write: ShardWrite) -> None:
        tries.append((asyncio.get_running_loop().time(), write.name))
        error = failing(write.name)
        if error is not None:
            await asyncio.sleep(kube.delay_s)
            raise error
        await write_shard(namespace, write)

    kube.write_shard = write  # type: ignore[method-assign]
    return tries


def hang_shards(kube: FakeKube, hanging: Callable[[str], bool], seconds: float = 10.0) -> None:
    async def hang(namespace: str, write: ShardWrite) -> None:
        if hanging(write.name):
            await asyncio.sleep(seconds)
            raise Unavailable("no answer in 10 s")
        await write_shard(namespace, write)

    write_shard = kube.write_shard
    kube.write_shard = hang  # type: ignore[method-assign]


def foreign(kube: FakeKube, name: str) -> None:
    """Take the name of a shard, so that models go to the next one."""
    kube.config_maps[name] = {"metadata": {"name": name, "resourceVersion": "1"}, "data": {}}


def accepted(kube: FakeKube, name: str) -> dict[str, Any]:
    return dict(find_condition(kube.models[name].get("status"), "Accepted"))


def put_off(operator: Operator, kind: str) -> float:
    value = operator.metrics.registry.get_sample_value(
        "trainedmodel_operator_writes_put_off", {"namespace": "demo", "kind": kind}
    )
    return value or 0.0


async def test_a_refused_shard_is_told_in_the_words_of_the_api_server_and_comes_when_it_may(
    operator: Operator, kube: FakeKube
) -> None:
    is_full = True
    tries = refuse_shards(kube, lambda _: refused() if is_full else None)
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(0.5)
        assert accepted(kube, "iris")["status"] == "False"
        assert accepted(kube, "iris")["reason"] == "ShardRefused"
        assert accepted(kube, "iris")["message"] == (
            "The API server refused to write ConfigMap tabular-models-0: exceeded quota: q. "
            "The operator tries again."
        )
        assert put_off(operator, "shard") == 1
        await asyncio.sleep(200)
        assert [round(at) for at, _ in tries] == [0, 1, 3, 7, 15, 31, 63, 123, 183]
        assert kube.count("status") == 1, "it says the same each time"
        is_full = False
        await asyncio.sleep(60)
        assert "iris.json" in kube.config_maps[SHARD]["data"]
        assert accepted(kube, "iris")["status"] == "True"
        assert put_off(operator, "shard") == 0


async def test_a_refused_shard_costs_the_other_shards_statuses_and_nudges_nothing(
    operator: Operator, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "SHARD_BUDGET_BYTES", 1500)
    kube.put_pod("pod-a", "tabular")
    async with operator.running():
        operator.apply(document("iris", parameters={"p": "x" * 900}))
        await asyncio.sleep(3)
        kube.put_report("pod-a", "tabular")
        refuse_shards(kube, lambda name: refused() if name == SHARD else None)
        writes = len(kube.writes)
        operator.apply(document("small"))  # there is room for it in the refused shard only
        operator.apply(document("large", parameters={"p": "x" * 900}))
        await asyncio.sleep(1)
        assert "large.json" in kube.config_maps[SECOND]["data"]
        assert "small.json" not in kube.config_maps[SHARD]["data"]
        assert {(kind, name) for _, kind, name in kube.writes[writes:]} >= {
            ("shard", SECOND),
            ("nudge", "pod-a"),
            ("status", "large"),
            ("status", "small"),
        }
        assert accepted(kube, "large")["status"] == "True"
        assert accepted(kube, "small")["reason"] == "ShardRefused"
        assert accepted(kube, "iris")["status"] == "True"
        failed = {"state": "Failed", "revision": "0" * 16, "reason": "LoadFailed", "attempt": 1}
        operator.report("pod-a", models={"large": failed})
        await asyncio.sleep(3)
        assert kube.models["large"]["status"]["state"] != "Pending", "what fails later is told"


async def test_a_changed_model_in_a_refused_shard_says_that_the_old_entry_stays(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.serving("iris"):
        refuse_shards(kube, lambda _: refused("field is immutable"))
        operator.apply(document("iris", generation=2, version="2"), "MODIFIED")
        await asyncio.sleep(3)
        assert accepted(kube, "iris")["message"].endswith("The last good entry stays in force.")
        kept = kube.models["iris"]["status"]
        assert (kept["observedGeneration"], kept["reason"]) == (2, "ShardRefused")


async def test_a_change_that_may_be_the_cure_is_tried_at_once(
    operator: Operator, kube: FakeKube
) -> None:
    tries = refuse_shards(kube, lambda _: refused())
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(100)
        before = len(tries)
        operator.apply(document("iris", generation=2, version="2"), "MODIFIED")
        await asyncio.sleep(0.3)
        assert len(tries) == before + 1


async def test_trouble_that_passes_soon_is_not_told(operator: Operator, kube: FakeKube) -> None:
    errors = iter([Unavailable("webhook timed out", 500)] * 3)
    refuse_shards(kube, lambda _: next(errors, None))
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(12)
    assert accepted(kube, "iris")["status"] == "True"
    assert [accepted(kube, "iris")["status"] for _, _, status in kube.statuses] == ["True"]


async def test_trouble_that_lasts_is_told(operator: Operator, kube: FakeKube) -> None:
    error = Unavailable("webhook timed out", 500)
    refuse_shards(kube, lambda _: error)
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(30)
    assert "did not write ConfigMap tabular-models-0" in accepted(kube, "iris")["message"]


async def test_a_shard_whose_name_cannot_be_looked_at_is_put_off_alone(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_reporting_pod("pod-a", "tabular")
    async with operator.serving("iris"):
        kube.fault = lambda method: refused("no get") if method == "get_config_map" else None
        operator.apply(document("wine", service="other"))
        operator.apply(document("rose"))
        await asyncio.sleep(1)
        assert accepted(kube, "wine")["reason"] == "ShardRefused"
        assert "rose.json" in kube.config_maps[SHARD]["data"], "a patch needs no look"
        kube.fault = lambda _: None
        await asyncio.sleep(5)
        assert accepted(kube, "wine")["status"] == "True"


async def test_a_writer_who_never_rests_at_one_shard_delays_no_other_shard(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.serving("iris"):
        refuse_shards(kube, lambda name: Conflict("stale", 409) if name == SHARD else None)
        foreign(kube, "other-models-0")
        operator.apply(document("iris", generation=2, version="2"), "MODIFIED")
        operator.apply(document("wine", service="other"))
        await asyncio.sleep(1)
        assert "wine.json" in kube.config_maps["other-models-1"]["data"]
        await asyncio.sleep(30)
        assert accepted(kube, "iris")["reason"] == "ShardRefused"


async def test_a_write_that_hangs_keeps_no_pass_and_is_made_again(kube: FakeKube) -> None:
    operator = Operator(kube)
    is_hanging = True
    hang_shards(kube, lambda name: is_hanging and name.startswith("slow"))
    async with operator.running():
        for n in range(40):
            operator.apply(document(f"slow-{n}", service=f"slow-{n}"))
        await asyncio.sleep(0.1)
        operator.apply(document("iris"))
        await asyncio.sleep(shard_writer.PATIENCE_S + 0.5)
        assert "iris.json" in kube.config_maps[SHARD]["data"]
        await asyncio.sleep(60)
        began = len(kube.writes)
        operator.apply(document("wine"))
        await asyncio.sleep(0.2)
        assert "wine.json" in kube.config_maps[SHARD]["data"], "and later not at all"
        assert len(kube.writes) > began
        assert accepted(kube, "slow-0")["reason"] == "ShardRefused"
        is_hanging = False
        await asyncio.sleep(30)
        assert accepted(kube, "slow-0")["status"] == "True"
        assert put_off(operator, "shard") == 0


async def test_while_a_late_write_is_under_way_its_shard_is_not_written_twice(
    operator: Operator, kube: FakeKube
) -> None:
    kube.delay_s = 5.0
    calls: list[str] = []
    write_shard = kube.write_shard

    async def noted(namespace: str, write: ShardWrite) -> None:
        calls.append("begun")
        await write_shard(namespace, write)
        calls.append("ended")

    kube.write_shard = noted  # type: ignore[method-assign]
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(11.5)
        operator.apply(document("wine"))
        await asyncio.sleep(100)
    assert calls == ["begun", "ended"] * (len(calls) // 2)
    assert "wine.json" in kube.config_maps[SHARD]["data"]
    assert kube.models["wine"]["status"]["state"] == "Pending"


async def test_a_pod_that_may_not_be_annotated_delays_no_shard_and_no_other_pod(
    operator: Operator, kube: FakeKube
) -> None:
    annotate = kube.annotate_pod

    async def fenced(namespace: str, name: str, value: str) -> None:
        if name == "stuck":
            kube.calls["stuck"] += 1
            raise refused("pods of this team are immutable")
        await annotate(namespace, name, value)

    kube.annotate_pod = fenced  # type: ignore[method-assign]
    async with operator.running():
        for pod in ("free", "stuck"):
            kube.put_reporting_pod(pod, "tabular")
        for n in range(8):
            operator.apply(document(f"m{n}"))
            await asyncio.sleep(0.1)
            assert f"m{n}.json" in kube.config_maps[SHARD]["data"]
            await asyncio.sleep(6)
        assert kube.count("nudge", "free") >= 8
        assert put_off(operator, "nudge") == 1
        before = kube.calls["stuck"]
        await asyncio.sleep(600)
        assert kube.calls["stuck"] - before <= 11, "once a minute"
        del kube.pods["stuck"]
        operator.apply(document("last"))
        await asyncio.sleep(1)
        assert put_off(operator, "nudge") == 0, "who is gone waits for nothing"


async def test_a_nudge_that_hangs_keeps_no_pass_and_the_latest_wish_is_sent_after_it(
    operator: Operator, kube: FakeKube
) -> None:
    annotate = kube.annotate_pod
    is_slow = True

    async def slow(namespace: str, name: str, value: str) -> None:
        if is_slow:
            await asyncio.sleep(2)
        await annotate(namespace, name, value)

    kube.annotate_pod = slow  # type: ignore[method-assign]
    kube.put_reporting_pod("pod-a", "tabular")
    async with operator.running():
        operator.apply(document("m0"))
        await asyncio.sleep(0.5)
        is_slow = False
        operator.apply(document("m1"))
        await asyncio.sleep(0.5)
        assert "m1.json" in kube.config_maps[SHARD]["data"]
        assert kube.count("nudge") == 0
        await asyncio.sleep(2)
    digest = kube.pods["pod-a"]["metadata"]["annotations"][names.CONFIG_ANNOTATION]
    assert kube.count("nudge") == 2
    assert digest == _digest(kube)


async def test_a_pod_that_goes_while_it_is_nudged_is_no_failure(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_reporting_pod("pod-a", "tabular")
    kube.fault = lambda method: NotFound("gone", 404) if method == "annotate_pod" else None
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(1)
        assert put_off(operator, "nudge") == 0


def _digest(kube: FakeKube) -> str:
    from trainedmodel_operator.core.shards.documents import seen_digest

    return seen_digest([(0, kube.config_maps[SHARD]["data"])])
