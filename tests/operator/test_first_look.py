"""A start finds what is as it shall be without a pass, and whatever is not gets one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.operator.builders import document, loaded, one
from support.operator.fake_kube import FakeKube, Operator
from trainedmodel_contract import names
from trainedmodel_operator.core.shards.documents import seen_digest
from trainedmodel_operator.errors import Unavailable
from trainedmodel_operator.reconcile import initial_sync, resync

pytestmark = [pytest.mark.looptime, pytest.mark.slow]

PARENTS = ("tabular", "text", "vision")


async def left_by_another(kube: FakeKube) -> None:
    """Let another operator bring everything to rest: models, pods, reports that say Loaded."""
    other = Operator(kube)
    async with other.running(resync=True):
        for service in PARENTS:
            other.apply(document(f"{service}-model", service=service))
            kube.put_pod(f"{service}-pod", service)
        await asyncio.sleep(5)
        for service in PARENTS:
            report(kube, service)
        await asyncio.sleep(200)
    assert all(one["status"]["state"] == "Loaded" for one in kube.models.values())
    kube.writes.clear()
    kube.calls.clear()


def report(kube: FakeKube, service: str) -> None:
    shard = kube.config_maps[f"{service}-models-0"]["data"]
    said = loaded(one(f"{service}-model", service=service))
    kube.put_report(f"{service}-pod", service, configDigest=seen_digest([(0, shard)]), models=said)


async def test_a_start_at_rest_is_one_list_of_each_kind_and_no_pass(kube: FakeKube) -> None:
    await left_by_another(kube)
    async with Operator(kube).running(resync=True):
        await asyncio.sleep(30)
    once = ("list_models", "list_shards", "list_pods", "list_reports")
    assert dict(kube.calls) == dict.fromkeys(once, 1)
    assert kube.writes == []


async def test_what_a_start_found_at_rest_is_settled_for_the_next_resyncs(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resync, "WHOLE_ROUNDS", 1_000_000)
    await left_by_another(kube)
    async with Operator(kube).running(resync=True):
        await asyncio.sleep(150)
        assert kube.calls["list_models"] == 1
        assert kube.calls["list_model_versions"] >= 2


def lose_entry(kube: FakeKube) -> None:
    shard = kube.config_maps["text-models-0"]
    shard["data"] = {key: value for key, value in shard["data"].items() if "text" not in key}
    kube.touch(shard)


def lose_shard(kube: FakeKube) -> None:
    del kube.config_maps["text-models-0"]


def change_model(kube: FakeKube) -> None:
    kube.put_model(document("text-model", service="text", generation=2, version="2"))


def lose_model(kube: FakeKube) -> None:
    del kube.models["text-model"]


def lose_report(kube: FakeKube) -> None:
    del kube.reports["text-pod"]


def fall_behind(kube: FakeKube) -> None:
    kube.put_report("text-pod", "text", configDigest="0" * 64)


def add_pod(kube: FakeKube) -> None:
    kube.put_pod("text-pod-2", "text")


CHANGES = [lose_entry, lose_shard, change_model, lose_model, lose_report, fall_behind, add_pod]


@pytest.mark.parametrize("change", CHANGES)
async def test_whatever_changed_while_nobody_led_gets_a_pass_and_nothing_else_does(
    kube: FakeKube, change: Callable[[FakeKube], None]
) -> None:
    await left_by_another(kube)
    change(kube)
    async with Operator(kube).running(resync=True):
        await asyncio.sleep(30)
    assert kube.calls["list_models"] >= 2
    assert kube.calls["list_report_metadata"] == kube.calls["list_models"] - 1
    assert kube.writes, "something was to be done"
    assert {name.partition("-")[0] for _, _, name in kube.writes} == {"text"}


async def test_a_shard_that_was_edited_by_hand_is_healed_at_the_start(kube: FakeKube) -> None:
    await left_by_another(kube)
    before = dict(kube.config_maps["text-models-0"]["data"])
    lose_entry(kube)
    async with Operator(kube).running(resync=True):
        await asyncio.sleep(2)
    assert kube.config_maps["text-models-0"]["data"] == before


@pytest.mark.parametrize(("bound", "least"), [("MOST_MODELS", 2), ("MOST_BYTES", 500)])
async def test_what_is_too_much_to_be_kept_gets_passes(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch, bound: str, least: int
) -> None:
    await left_by_another(kube)
    monkeypatch.setattr(initial_sync, bound, least)
    async with Operator(kube).running(resync=True):
        await asyncio.sleep(30)
    assert 1 < kube.calls["list_models"] < 1 + len(PARENTS), "some parents, not all"
    assert kube.writes == []


async def test_a_parent_whose_last_model_is_gone_is_cleaned_up_after_a_start(
    kube: FakeKube,
) -> None:
    await left_by_another(kube)
    del kube.models["text-model"], kube.pods["text-pod"], kube.reports["text-pod"]
    async with Operator(kube).running(resync=True):
        await asyncio.sleep(30)
    assert not any(
        names.PARENT_LABEL in one["metadata"]["labels"] and "text" in name
        for name, one in kube.config_maps.items()
    )


async def test_a_first_look_that_fails_is_made_again_whole(kube: FakeKube) -> None:
    await left_by_another(kube)
    failures = iter([Unavailable("down")])
    kube.fault = lambda method: next(failures, None) if method == "list_reports" else None
    async with Operator(kube).running(resync=True) as operator:
        await asyncio.sleep(30)
        assert operator.resync.has_begun.is_set()
    assert kube.calls["list_reports"] == 2
    assert kube.calls["list_models"] == 2
    assert kube.writes == []


async def test_a_first_list_rings_only_for_models_that_the_survey_did_not_see_so(
    kube: FakeKube,
) -> None:
    await left_by_another(kube)
    operator = Operator(kube)
    await operator.inventory.look()
    change_model(kube)
    listed: list[dict[str, Any]] = [
        {"type": None, "object": model} for model in kube.models.values()
    ]
    news = [event for event in listed if not operator.handlers.is_known(event)]
    assert [event["object"]["metadata"]["name"] for event in news] == ["text-model"]
    assert not operator.handlers.is_known({**listed[0], "type": "ADDED"}), "no list"
    again = [event for event in listed if operator.handlers.is_known(event)]
    assert again == [], "whoever lists anew may have lost something"
