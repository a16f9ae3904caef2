"""What is worth less never decides over what is worth more, nor one namespace over another.

Statuses and Events that hang, a report and an InferenceService that cannot be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from support.operator.builders import NOW, document, one
from support.operator.fake_kube import FakeKube, Operator
from trainedmodel_operator.api.inference_services import BROKEN_S, InferenceServices
from trainedmodel_operator.core.plan import StatusWrite
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.errors import Refused, Unavailable
from trainedmodel_operator.observability.event_recorder import SLOW_S, EventRecorder
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.reconcile.status_writer import StatusWriter

pytestmark = pytest.mark.looptime

SHARD = "tabular-models-0"
DOWN = Unavailable("GET /x: no answer in 30 s")


def now() -> float:
    return asyncio.get_running_loop().time()


def loaded(*model_names: str) -> dict[str, dict[str, str]]:
    models = {name: one(name).model for name in model_names}
    return {
        name: {"state": "Loaded", "revision": model.revision()}
        for name, model in models.items()
        if model is not None
    }


async def test_statuses_that_hang_in_one_namespace_keep_no_other_namespace() -> None:
    class Hanging(FakeKube):
        async def write_status(self, namespace: str, name: str, uid: str, status: Any) -> None:
            if namespace == "bad":
                self.calls["bad"] += 1
                await asyncio.sleep(10)
                raise Unavailable("no answer in 10 s")
            self._note("status", name)

    kube, metrics = Hanging(), Metrics()
    statuses = StatusWriter(kube, metrics, jitter=lambda: 1.0)
    running = asyncio.create_task(statuses.run())

    def submit(namespace: str, count: int) -> None:
        models = [f"{namespace}-{n}" for n in range(count)]
        writes = [StatusWrite(name, name, {}, {"state": "Pending"}) for name in models]
        statuses.submit(ServiceKey(namespace, "tabular"), models, writes, now())

    submit("bad", 500)
    await asyncio.sleep(0.1)
    submit("good", 50)
    await asyncio.sleep(4)
    assert kube.count("status") == 50
    for n in range(20):
        submit(f"more-{n}", 2)
        await asyncio.sleep(1)
        assert kube.count("status") == 50 + 2 * (n + 1), "and later at once"
    gauge = "trainedmodel_operator_writes_put_off"
    put_off = metrics.registry.get_sample_value(gauge, {"namespace": "bad", "kind": "status"})
    assert put_off
    assert put_off > 0
    assert kube.calls["bad"] < 100, "few at a time where they hang"
    running.cancel()
    await asyncio.wait([running])


async def test_a_refused_status_is_counted_until_it_can_be_written(
    operator: Operator, kube: FakeKube
) -> None:
    def put_off() -> float | None:
        return operator.metrics.registry.get_sample_value(
            "trainedmodel_operator_writes_put_off", {"namespace": "demo", "kind": "status"}
        )

    kube.fault = lambda method: Refused("no", 403) if method == "write_status" else None
    async with operator.running(resync=True):
        operator.apply(document("iris"))
        operator.apply(document("wine"))
        await asyncio.sleep(1)
        assert put_off() == 2
        assert {"iris.json", "wine.json"} <= set(kube.config_maps[SHARD]["data"])
        kube.fault = lambda _: None
        await asyncio.sleep(200)
        assert put_off() is None
        assert kube.models["iris"]["status"]["state"] == "Pending"


async def test_events_that_hang_in_one_namespace_keep_those_of_others_for_a_moment() -> None:
    class Hanging:
        def __init__(self) -> None:
            self.written: list[str] = []
            self.tries = 0

        async def create_event(self, namespace: str, event: Mapping[str, Any]) -> None:
            if namespace == "bad":
                self.tries += 1
                await asyncio.sleep(3)
                raise Unavailable("no answer in 3 s")
            self.written.append(event["regarding"]["name"])

        async def patch_event(self, namespace: str, name: str, patch: object) -> None:
            raise AssertionError("nothing is told twice")

    client = Hanging()
    recorder = EventRecorder(client, Metrics(), instance="operator-0", now=lambda: NOW)
    running = asyncio.create_task(recorder.run())
    await asyncio.sleep(0)
    refused = {"type": "Accepted", "status": "False", "reason": "InvalidSpec", "message": "bad"}
    for n in range(10):
        for namespace in ("bad", f"good-{n}"):
            key = ServiceKey(namespace, f"p{n}")
            status = {"conditions": [refused]}
            recorder.status_written(key, f"{namespace}-m{n}", f"{namespace}-{n}", {}, status)
    await asyncio.sleep(6)
    assert len(client.written) == 10
    assert client.tries == 1
    await asyncio.sleep(SLOW_S)
    key = ServiceKey("bad", "later")
    recorder.status_written(key, "later", "later", {}, {"conditions": [refused]})
    await asyncio.sleep(1)
    assert client.tries == 2, "and then it is tried again"
    running.cancel()
    await asyncio.wait([running])


async def test_a_report_that_cannot_be_read_costs_no_shard_and_what_it_said_stands(
    operator: Operator, kube: FakeKube
) -> None:
    async with operator.running():
        operator.apply(document("iris"))
        for pod in ("pod-a", "pod-b"):
            kube.put_pod(pod, "tabular")
            operator.report(pod, models=loaded("iris"))
        await asyncio.sleep(3)
        assert kube.models["iris"]["status"]["copies"]["summary"] == "2/2"
        kube.put_report("pod-a", "tabular", models=loaded("iris", "wine"))
        kube.fault = lambda method: DOWN if method == "get_report" else None
        operator.apply(document("wine"))
        await asyncio.sleep(1)
        assert "wine.json" in kube.config_maps[SHARD]["data"]
        assert kube.models["iris"]["status"]["copies"]["summary"] == "2/2"
        assert kube.models["wine"]["status"]["copies"]["summary"] == "0/2"
        kube.fault = lambda _: None
        await asyncio.sleep(20)
        assert kube.models["wine"]["status"]["copies"]["summary"] == "1/2"


async def test_a_report_that_never_could_be_read_makes_nobody_say_what_is_not_known(
    operator: Operator, kube: FakeKube
) -> None:
    kube.put_pod("pod-a", "tabular")
    kube.put_report("pod-a", "tabular", models=loaded("iris"))

    async def hangs(namespace: str, name: str) -> None:
        await asyncio.sleep(1000)

    get_report = kube.get_report
    kube.get_report = hangs  # type: ignore[method-assign]
    async with operator.running():
        operator.apply(document("iris"))
        await asyncio.sleep(6)
        assert "iris.json" in kube.config_maps[SHARD]["data"]
        assert kube.count("status") == 0
        kube.get_report = get_report  # type: ignore[method-assign]
        await asyncio.sleep(12)
        assert kube.models["iris"]["status"]["state"] == "Loaded"


class Services:
    """InferenceServices of which some cannot be read."""

    def __init__(self, *broken: str) -> None:
        self.broken = set(broken)
        self.asked: list[str] = []

    async def list_inference_services(self, namespace: str, name: str) -> list[Any]:
        self.asked.append(name)
        if name in self.broken:
            raise Unavailable("conversion webhook failed", 500)
        return [{"status": {"url": f"http://{name}"}}]


async def test_one_inference_service_that_cannot_be_read_takes_no_url_from_its_neighbours() -> None:
    client = Services("bad")
    services = InferenceServices(client)
    assert not (await services.read(ServiceKey("demo", "bad"))).is_known
    assert (await services.read(ServiceKey("demo", "good"))).url == "http://good"
    assert not (await services.read(ServiceKey("demo", "bad"))).is_known
    assert client.asked == ["bad", "good"], "the broken one is left alone"
    await asyncio.sleep(BROKEN_S + 1)
    client.broken.clear()
    assert (await services.read(ServiceKey("demo", "bad"))).url == "http://bad"


async def test_where_two_cannot_be_read_the_namespace_is_left_alone() -> None:
    client = Services("bad", "worse")
    services = InferenceServices(client)
    for name in ("bad", "worse", "good", "good"):
        assert not (await services.read(ServiceKey("demo", name))).is_known
    assert client.asked == ["bad", "worse"]
    assert (await services.read(ServiceKey("other", "good"))).is_known
