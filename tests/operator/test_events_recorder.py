"""The recorder: statuses that were written become Events, and nothing waits for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from support.operator.builders import NOW
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.errors import ApiError, NotFound, Refused
from trainedmodel_operator.observability.event_recorder import CONTROLLER, EventRecorder
from trainedmodel_operator.observability.metrics import Metrics

pytestmark = pytest.mark.looptime

KEY = ServiceKey("demo", "tabular")
LOADING: dict[str, Any] = {"revision": "aaaa", "conditions": []}
READY: dict[str, Any] = {
    "revision": "aaaa",
    "copies": {"ready": 1},
    "conditions": [{"type": "Ready", "status": "True", "reason": "AllCopiesReady"}],
}


class Events:
    """The API's side: keeps what is written, and refuses as ordered."""

    def __init__(self) -> None:
        self.created: dict[str, Mapping[str, Any]] = {}
        self.patched: list[tuple[str, Mapping[str, Any]]] = []
        self.fault: ApiError | None = None
        self.delay_s = 0.0

    async def create_event(self, namespace: str, event: Mapping[str, Any]) -> None:
        await asyncio.sleep(self.delay_s)
        if self.fault is not None:
            raise self.fault
        self.created[event["metadata"]["name"]] = event

    async def patch_event(self, namespace: str, name: str, patch: Mapping[str, Any]) -> None:
        if name not in self.created:
            raise NotFound(name, 404)
        self.patched.append((name, patch))


@contextlib.asynccontextmanager
async def recording(events: Events, metrics: Metrics) -> AsyncIterator[EventRecorder]:
    recorder = EventRecorder(events, metrics, instance="operator-7f", now=lambda: NOW)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        await asyncio.wait([task])


def became_ready(recorder: EventRecorder, name: str = "iris") -> None:
    recorder.status_written(KEY, name, f"uid-{name}", LOADING, READY)


def counted(metrics: Metrics, outcome: str) -> float:
    name = "trainedmodel_operator_events_total"
    return metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0.0


async def test_an_event_has_all_that_kubectl_shows() -> None:
    events, metrics = Events(), Metrics()
    async with recording(events, metrics) as recorder:
        became_ready(recorder)
        await asyncio.sleep(1)
    [(name, event)] = events.created.items()
    assert name.startswith("iris.")
    assert event["regarding"]["uid"] == "uid-iris"
    assert event["regarding"]["kind"] == "TrainedModel"
    assert (event["type"], event["reason"]) == ("Normal", "Ready")
    assert event["reportingController"] == CONTROLLER
    assert event["reportingInstance"] == "operator-7f"
    assert event["eventTime"] == "2026-03-01T12:00:00.000000Z"
    assert counted(metrics, "written") == 1


async def test_a_status_that_tells_no_news_writes_nothing() -> None:
    events = Events()
    async with recording(events, Metrics()) as recorder:
        recorder.status_written(KEY, "iris", "uid-iris", READY, READY)
        await asyncio.sleep(60)
    assert not events.created


async def test_repeats_become_the_series_of_the_first_event() -> None:
    events = Events()
    async with recording(events, Metrics()) as recorder:
        for _ in range(5):
            became_ready(recorder)
            await asyncio.sleep(1)
        await asyncio.sleep(60)
    assert len(events.created) == 1
    assert [patch["series"]["count"] for _, patch in events.patched] == [5]


async def test_a_series_whose_event_was_deleted_begins_anew() -> None:
    events = Events()
    async with recording(events, Metrics()) as recorder:
        became_ready(recorder)
        await asyncio.sleep(1)
        events.created.clear()
        became_ready(recorder)
        await asyncio.sleep(60)
    assert len(events.created) == 1


async def test_an_event_that_is_refused_is_counted_and_holds_nobody_up() -> None:
    events, metrics = Events(), Metrics()
    events.fault = Refused("no", 403)
    async with recording(events, metrics) as recorder:
        became_ready(recorder)
        await asyncio.sleep(1)
        events.fault = None
        became_ready(recorder, "wine")
        await asyncio.sleep(1)
    assert [event["regarding"]["name"] for event in events.created.values()] == ["wine"]
    assert counted(metrics, "failed") == 1


async def test_telling_takes_no_time_while_the_api_is_slow() -> None:
    events, metrics = Events(), Metrics()
    events.delay_s = 30.0
    async with recording(events, metrics) as recorder:
        began = asyncio.get_running_loop().time()
        for number in range(20_000):
            key = ServiceKey("demo", f"service-{number}")
            recorder.status_written(key, "iris", f"uid-{number}", LOADING, READY)
        assert asyncio.get_running_loop().time() - began < 0.001
        await asyncio.sleep(1)
    assert counted(metrics, "dropped") == 16_000


async def test_a_summary_says_for_how_many_it_speaks() -> None:
    events = Events()
    async with recording(events, Metrics()) as recorder:
        for number in range(100):
            became_ready(recorder, f"m{number}")
        await asyncio.sleep(60)
    notes = [event["note"] for event in events.created.values()]
    assert len(notes) == 11
    assert "(89 more models of service tabular: the same)" in notes[-1]
