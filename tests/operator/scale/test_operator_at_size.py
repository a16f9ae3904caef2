"""What the operator asks of a real API server at size: counts are strict, seconds generous."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import pytest
from trainedmodel_contract import names
from trainedmodel_devkit import meter
from trainedmodel_devkit.crowd import Crowd
from trainedmodel_devkit.documents import loaded, trained_model
from trainedmodel_devkit.operatorscene import OperatorScene
from trainedmodel_devkit.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.scale, pytest.mark.timeout(180)]

PARENTS = 40
MODELS = [
    trained_model(f"m{i:04}", f"service-{i % PARENTS:02}", framework="sklearn") for i in range(1000)
]


async def placed(crowd: Crowd, count: int) -> None:
    async def all_lie_in_shards() -> bool:
        return await crowd.count_entries() >= count

    await until(all_lie_in_shards, 90, every_s=0.2)


async def told(scene: OperatorScene, mark: int, models: Iterable[Any]) -> None:
    """Wait until each model has had a status."""
    names_of = {model["metadata"]["name"] for model in models}

    async def all_have_a_status() -> bool:
        return names_of <= set(scene.asked(mark).status_writes)

    await until(all_have_a_status, 90, every_s=0.5)


async def test_a_thousand_models_cost_few_writes_and_a_restart_and_a_resync_none(
    scene: OperatorScene, crowd: Crowd
) -> None:
    mark = scene.mark()
    scene.start()
    await crowd.create_models(MODELS)
    await placed(crowd, len(MODELS))
    await told(scene, mark, MODELS)
    await meter.at_rest(scene.pid)
    created = scene.asked(mark)
    assert max(created.shard_writes.values()) <= 10
    assert set(created.status_writes.values()) == {1}
    assert not created.other_writes
    refused = set(created.refused) - {"list inferenceservices: 404"}
    assert refused <= {"get configmaps: 404"}, "only looks before a shard is made"
    assert meter.rss_mib(scene.pid, peak=True) < 200

    scene.stop()
    mark = scene.mark()
    scene.start(resync_s=4)
    await meter.at_rest(scene.pid)
    restarted = scene.asked(mark)
    assert restarted.writes == 0
    assert set(restarted.refused) <= {"list inferenceservices: 404"}
    # Each service is looked at once, by five lists; the survey and the watches list a few pages.
    assert restarted.reads["configmaps"] <= PARENTS + 5
    assert restarted.requests <= 5 * PARENTS + 60

    mark = scene.mark()
    await asyncio.sleep(10)
    resynced = scene.asked(mark)
    assert resynced.writes == 0
    assert resynced.reads["configmaps"] >= 2, "resyncs were made"
    # A resync is five lists; a few services are looked at whole in their turn.
    assert resynced.requests <= 4 * (5 + 5 * PARENTS // 10)


async def test_five_hundred_models_in_twenty_pods_become_ready_in_two_status_writes_each(
    scene: OperatorScene, crowd: Crowd
) -> None:
    models = [trained_model(f"r{i:04}", "service", framework="sklearn") for i in range(500)]
    pods = [f"pod-{i:02}" for i in range(20)]
    mark = scene.mark()
    scene.start()
    for pod in pods:
        await crowd.create_report(pod, await crowd.create_pod(pod, "service"), "service")
    await crowd.create_models(models)
    await placed(crowd, len(models))
    await told(scene, mark, models)
    digest, said = await crowd.seen_digest("service"), loaded(models)
    half = dict(list(said.items())[::2])
    await crowd.all(*(crowd.patch_report(pod, {"models": half}) for pod in pods), at_once=4)
    patch = {"configDigest": digest, "models": said}
    await crowd.all(*(crowd.patch_report(pod, patch) for pod in pods), at_once=4)
    mark = scene.mark()

    async def all_are_ready() -> bool:
        return await crowd.count_ready() == len(models)

    await until(all_are_ready, 90, every_s=0.3)
    await meter.at_rest(scene.pid)
    after = scene.asked(mark)
    assert max(after.status_writes.values()) <= 2
    assert not after.shard_writes


async def test_one_change_among_many_is_one_write_of_one_shard(
    scene: OperatorScene, crowd: Crowd
) -> None:
    models = [trained_model(f"c{i:04}", f"other-{i % 10}", framework="sklearn") for i in range(300)]
    scene.start()
    await crowd.create_models(models)
    await placed(crowd, len(models))
    await meter.at_rest(scene.pid)
    mark, times = scene.mark(), []
    async with crowd.watching_shards() as watch:
        for number in range(10):
            shard = names.shard_name(f"other-{number}", 0)
            began = time.monotonic()
            change = {"spec": {"model": {"version": f"v{number}"}}}
            await crowd.patch_model(f"c{number:04}", change)
            times.append(await watch.next_of(shard, began) - began)
    await meter.at_rest(scene.pid)
    after = scene.asked(mark)
    assert set(after.shard_writes.values()) == {1}
    assert len(after.shard_writes) == 10
    assert set(after.status_writes) == {f"c{number:04}" for number in range(10)}
    assert sorted(times)[5] < 2.0


async def test_a_shard_is_written_while_a_thousand_statuses_wait(
    scene: OperatorScene, crowd: Crowd
) -> None:
    services = [f"flood-{number}" for number in range(4)]
    models = [trained_model(f"f{i:04}", services[i % 4], framework="sklearn") for i in range(2000)]
    mark = scene.mark()
    scene.start()
    await crowd.create_models(models)
    await told(scene, mark, models)
    await meter.at_rest(scene.pid)
    mark = scene.mark()
    for service in services:  # one report of a new pod changes the status of all its models
        await crowd.create_report(service, await crowd.create_pod(service, service), service)

    async def statuses_are_written() -> bool:
        return bool(scene.asked(mark).status_writes)

    await until(statuses_are_written, 60, every_s=0.05)
    async with crowd.watching_shards() as watch:
        began = time.monotonic()
        await crowd.create_models([trained_model("late", "late-service", framework="sklearn")])
        at = await watch.next_of(names.shard_name("late-service", 0), began)
    waiting = len(models) - len(scene.asked(mark).status_writes)
    assert waiting >= 300, "the flood was still there"
    assert at - began < 5.0
