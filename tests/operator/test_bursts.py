"""What a burst costs, in virtual time: the promises about writes, counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.operator.builders import KEY, document, one
from support.operator.fake_kube import FakeKube, Operator
from trainedmodel_operator.core.plan import StatusWrite
from trainedmodel_operator.reconcile.status_writer import IN_FLIGHT, YIELDING

pytestmark = [pytest.mark.looptime, pytest.mark.slow]

NAMES = [f"m{number:03}" for number in range(200)]
REVISIONS = {name: model.revision() for name in NAMES if (model := one(name).model) is not None}


async def pulls(operator: Operator, pod: str, start: float, each: float, steps: int) -> None:
    """A puller that reports each change of each model, four downloads at a time."""
    models: dict[str, dict[str, Any]] = {}
    await asyncio.sleep(start)
    for number, name in enumerate(NAMES):
        for step in range(steps):
            models[name] = {
                "state": "Downloading",
                "revision": REVISIONS[name],
                "bytes": step,
                "totalBytes": steps,
            }
            await asyncio.sleep(each / steps)
            if number % 4 == 0:
                operator.report(pod, models=dict(models))
        models[name] = {"state": "Loaded", "revision": REVISIONS[name]}
    for name in NAMES:
        models[name] = {"state": "Loaded", "revision": REVISIONS[name]}
    operator.report(pod, models=dict(models))


@pytest.mark.parametrize("over_s", [0.2, 1.5, 3.0, 5.0])
async def test_200_models_at_once_are_at_most_5_shard_writes_and_3_statuses_each(
    kube: FakeKube, over_s: float
) -> None:
    operator = Operator(kube)
    for pod in ("pod-a", "pod-b"):
        kube.put_pod(pod, "tabular")
        operator.report(pod, models={})
    async with operator.running(resync=True), asyncio.TaskGroup() as group:
        group.create_task(pulls(operator, "pod-a", 1.0, 16 / 200, 3))
        group.create_task(pulls(operator, "pod-b", 1.5, 17 / 200, 3))
        for name in NAMES:
            operator.apply(document(name))
            await asyncio.sleep(over_s / len(NAMES))
        await asyncio.sleep(40)
    assert kube.count("shard") <= 5
    assert all(model["status"]["state"] == "Loaded" for model in kube.models.values())
    counts = {name: kube.count("status", name) for name in NAMES}
    assert max(counts.values()) <= 3, counts


async def test_twenty_quick_changes_of_one_model_are_few_writes_and_the_last_one_wins(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.running():
        for generation in range(1, 21):
            operator.apply(document("iris", generation=generation, version=str(generation)))
            await asyncio.sleep(0.02)
        await asyncio.sleep(5)
    assert kube.count("shard") <= 2
    assert '"version":"20"' in kube.config_maps["tabular-models-0"]["data"]["iris.json"]
    assert kube.models["iris"]["status"]["observedGeneration"] == 20


async def test_a_flood_of_statuses_never_delays_a_shard(kube: FakeKube) -> None:
    operator = Operator(kube)
    slow = kube.write_status

    async def slowly(namespace: str, name: str, uid: str, status: Any) -> None:
        await asyncio.sleep(1.0)
        await slow(namespace, name, uid, status)

    kube.write_status = slowly  # type: ignore[method-assign]
    async with operator.running():
        for name in NAMES:
            operator.apply(document(name))
        await asyncio.sleep(3)
        assert kube.count("status") < 60, "the flood is still there"
        operator.apply(document("late"))
        await asyncio.sleep(0.2)
        assert "late.json" in kube.config_maps["tabular-models-0"]["data"]
        await asyncio.sleep(20)
        assert kube.count("status") == 201


async def test_a_status_sent_while_a_pass_decided_is_not_sent_again_with_a_later_time(
    operator: Operator, kube: FakeKube
) -> None:
    def dated(at: str, state: str = "Pending") -> dict[str, Any]:
        condition = {"type": "Ready", "status": "False", "lastTransitionTime": at}
        return {"observedGeneration": 1, "state": state, "conditions": [condition]}

    def submit(status: dict[str, Any], began: float) -> None:
        write = StatusWrite("iris", "uid-iris", {}, status)
        operator.statuses.submit(KEY, ["uid-iris"], [write], began)

    kube.put_model(document("iris"))
    clock = asyncio.get_running_loop().time
    async with operator.running():
        began = clock()
        submit(dated("12:00"), began)
        await asyncio.sleep(1)
        submit(dated("12:01"), began)
        await asyncio.sleep(1)
        assert kube.count("status") == 1, "that pass had not seen it"
        submit(dated("12:01", state="Waiting"), began)
        await asyncio.sleep(100)
        assert kube.count("status") == 2, "but it has other news"
        submit(dated("12:03", state="Waiting"), clock())
        await asyncio.sleep(1)
        assert kube.count("status") == 3, "somebody has edited it since"


async def test_at_most_16_statuses_are_in_flight(kube: FakeKube) -> None:
    operator = Operator(kube)
    now = most = 0
    inner = kube.write_status

    async def counted(namespace: str, name: str, uid: str, status: Any) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.5)
        await inner(namespace, name, uid, status)
        now -= 1

    kube.write_status = counted  # type: ignore[method-assign]
    async with operator.running():
        for name in NAMES[:60]:
            operator.apply(document(name))
        await asyncio.sleep(10)
    assert most == 16
    assert kube.count("status") == 60


async def test_statuses_make_way_while_passes_wait_for_their_turn(kube: FakeKube) -> None:
    operator = Operator(kube)
    inner, now, counts = kube.write_status, 0, []

    async def counted(namespace: str, name: str, uid: str, status: Any) -> None:
        nonlocal now
        now += 1
        counts.append((operator.queue.is_full, now))
        await asyncio.sleep(0.2)
        await inner(namespace, name, uid, status)
        now -= 1

    kube.write_status = counted  # type: ignore[method-assign]
    kube.delay_s = 0.5
    async with operator.running():
        for number in range(400):
            operator.apply(document(f"m{number:03}", service=f"p{number % 100:02}"))
        await asyncio.sleep(5)
        assert operator.queue.is_full
        assert max(number for full, number in counts if full) == YIELDING
        await asyncio.sleep(60)
        assert not operator.queue.is_full
    assert max(number for _, number in counts) == IN_FLIGHT
    assert kube.count("status") == 400


async def test_progress_is_told_now_and_then_and_ready_at_once(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_pod("pod-a", "tabular")
    revision = REVISIONS["m000"]
    async with operator.running():
        operator.apply(document("m000"))
        for second in range(60):
            entry = {
                "state": "Downloading",
                "revision": revision,
                "bytes": second,
                "totalBytes": 60,
            }
            operator.report("pod-a", models={"m000": entry})
            await asyncio.sleep(1)
        operator.report("pod-a", models={"m000": {"state": "Loaded", "revision": revision}})
        await asyncio.sleep(0.6)
        assert kube.models["m000"]["status"]["state"] == "Loaded"
    times = [round(at) for at, _, _ in kube.statuses]
    assert times == [0, 5, 20, 35, 50, 60]


async def test_urgent_statuses_stay_urgent_when_a_newer_one_takes_their_place(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_pod("pod-a", "tabular")
    kube.fault = lambda method: None
    async with operator.running():
        operator.apply(document("m000"))
        await asyncio.sleep(30)
        failed = {"state": "Failed", "revision": REVISIONS["m000"], "reason": "ObjectNotFound"}
        operator.report("pod-a", models={"m000": {**failed, "attempt": 1}})
        await asyncio.sleep(1)
        assert kube.models["m000"]["status"]["lastFailure"]["attempt"] == 1
        operator.report("pod-a", models={"m000": {**failed, "attempt": 2}})
        await asyncio.sleep(1)
        assert kube.models["m000"]["status"]["lastFailure"]["attempt"] == 1, "no news"
        await asyncio.sleep(10)
        assert kube.models["m000"]["status"]["lastFailure"]["attempt"] == 2
