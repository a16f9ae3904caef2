"""The way to the API server: turns, pauses, tries, and the fence, in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import aiohttp
import pytest
from kubernetes.aio import client as kubernetes_client
from trainedmodel_operator.api.transport import ATTEMPTS, RequestGate, Transport, read_error
from trainedmodel_operator.core.pacing.rate_limiter import (
    LONGEST_OUTAGE_PAUSE_S,
    PriorityLevel,
    RateLimiter,
)
from trainedmodel_operator.core.pacing.token_bucket import TokenBucket
from trainedmodel_operator.errors import (
    NamespaceEnds,
    Refused,
    Throttled,
    Unavailable,
    Unreachable,
)
from trainedmodel_operator.observability.metrics import Metrics

pytestmark = pytest.mark.looptime


class Answer:
    def __init__(self, status: int = 200, **headers: str) -> None:
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    async def read(self) -> bytes:
        return json.dumps({"message": "so it is"}).encode()


Script = Callable[[str], Answer | Exception]


class Wire:
    """Stands where the official client's transport is; notes when it was asked for what."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.sent: list[tuple[float, str]] = []

    async def param_serialize(self, method: str, path: str, **_: Any) -> Any:
        return method, path, {}, None, None

    async def call_api(self, method: str, url: str, *_: Any, **__: Any) -> Answer:
        self.sent.append((asyncio.get_running_loop().time(), url))
        answer = self.script(url)
        if isinstance(answer, Exception):
            raise answer
        return answer


def over(wire: Wire, metrics: Metrics | None = None, **more: Any) -> Transport:
    return Transport(cast("kubernetes_client.ApiClient", wire), metrics or Metrics(), **more)


def in_turn(*answers: Answer | Exception) -> Script:
    left = list(answers)
    return lambda _: left.pop(0)


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"trainedmodel_operator_{name}_total", labels) or 0.0


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_what_is_refused_for_load_is_sent_again_when_the_server_asked_for_it() -> None:
    metrics = Metrics()
    busy = Answer(429, Retry_After="7")
    wire = Wire(in_turn(busy, Answer(503, Retry_After="3"), Answer(200)))
    await over(wire, metrics).request(PriorityLevel.STATUS, "PATCH", "/a")
    gaps = [later[0] - sooner[0] for sooner, later in pairwise(wire.sent)]
    assert 7 <= gaps[0] <= 7.8
    assert 3 <= gaps[1] <= 3.4
    assert sample(metrics, "api_errors", priority_level="status", cause="throttled") == 2
    assert sample(metrics, "throttled_seconds", priority_level="status") >= 10


async def test_in_the_end_the_caller_is_told() -> None:
    wire = Wire(lambda _: Answer(429, Retry_After="1"))
    with pytest.raises(Throttled):
        await over(wire).request(PriorityLevel.SHARD, "PATCH", "/a")
    assert len(wire.sent) == ATTEMPTS


async def test_a_503_without_a_word_when_to_come_back_is_the_callers_matter() -> None:
    wire = Wire(lambda _: Answer(503))
    with pytest.raises(Unavailable):
        await over(wire).request(PriorityLevel.SHARD, "PATCH", "/a")
    assert len(wire.sent) == 1


async def test_a_date_is_read_by_the_servers_own_clock() -> None:
    busy = Answer(
        429,
        Date="Sun, 01 Mar 2026 12:00:00 GMT",
        Retry_After="Sun, 01 Mar 2026 12:00:05 GMT",
    )
    wire = Wire(in_turn(busy, Answer(200)))
    await over(wire).request(PriorityLevel.READ, "GET", "/a")
    assert 5 <= wire.sent[1][0] - wire.sent[0][0] <= 5.6


async def test_while_statuses_are_refused_shards_and_reads_go_on() -> None:
    wire = Wire(lambda url: Answer(429, Retry_After="30") if url == "/status" else Answer())
    transport = over(wire)
    refused = [
        asyncio.create_task(transport.request(PriorityLevel.STATUS, "PATCH", "/status"))
        for _ in range(16)
    ]
    await asyncio.sleep(1)
    asked = len(wire.sent)
    began = now()
    await transport.request(PriorityLevel.READ, "GET", "/list")
    await transport.request(PriorityLevel.SHARD, "PATCH", "/shard")
    assert now() - began < 0.01
    assert len(wire.sent) == asked + 2, "and nobody asks for the refused ones meanwhile"
    for task in refused:
        task.cancel()
    await asyncio.wait(refused)


async def test_an_outage_costs_few_requests_and_its_end_is_soon_known() -> None:
    ends_at = 60.0
    wire = Wire(lambda _: aiohttp.ClientConnectionError("no") if now() < ends_at else Answer())
    transport = over(wire)

    async def persist() -> float:
        while True:
            try:
                await transport.request(PriorityLevel.STATUS, "PATCH", "/a")
            except Unreachable:
                continue
            return now()

    done = await asyncio.gather(*(persist() for _ in range(50)))
    in_vain = sum(at < ends_at for at, _ in wire.sent)
    assert in_vain < 50 * 40
    assert max(done) < ends_at + LONGEST_OUTAGE_PAUSE_S + 0.1


async def test_a_500_is_no_outage_and_delays_nobody() -> None:
    wire = Wire(lambda url: Answer(500) if url == "/bad" else Answer())
    transport = over(wire)
    for _ in range(20):
        with pytest.raises(Unavailable):
            await transport.request(PriorityLevel.SHARD, "PATCH", "/bad")
        await transport.request(PriorityLevel.STATUS, "PATCH", "/good")
    assert now() < 0.5


async def test_the_fence_is_asked_after_the_waiting_and_for_writes_only() -> None:
    class Fenced(Exception):
        pass

    asked: list[float] = []

    def fence() -> None:
        asked.append(now())
        if now() > 5:
            raise Fenced

    wire = Wire(in_turn(Answer(), Answer(429, Retry_After="10")))
    transport = over(wire, fence=fence)
    await transport.request(PriorityLevel.READ, "GET", "/a")
    assert asked == []
    with pytest.raises(Fenced):
        await transport.request(PriorityLevel.SHARD, "PATCH", "/a")
    assert len(wire.sent) == 2, "the second try was not sent"


async def test_the_most_urgent_goes_first_whoever_came_first() -> None:
    gate = RequestGate(
        Metrics(), RateLimiter(TokenBucket(rate=10, burst=1, tokens=0, at=0.0)), jitter=lambda: 0.0
    )
    order: list[str] = []

    async def enter(level: PriorityLevel) -> None:
        await gate.enter(level)
        order.append(level.name)

    async with asyncio.TaskGroup() as group:
        for level in (
            PriorityLevel.EVENT,
            PriorityLevel.STATUS,
            PriorityLevel.NUDGE,
            PriorityLevel.STATUS,
            PriorityLevel.SHARD,
        ):
            group.create_task(enter(level))
    assert order == ["SHARD", "NUDGE", "STATUS", "STATUS", "EVENT"]
    assert now() == pytest.approx(0.5, abs=0.12)


async def test_who_is_cancelled_while_waiting_keeps_nobody_up() -> None:
    gate = RequestGate(
        Metrics(), RateLimiter(TokenBucket(rate=1, burst=1, tokens=0, at=0.0)), jitter=lambda: 0.0
    )
    tired = asyncio.create_task(gate.enter(PriorityLevel.STATUS))
    patient = asyncio.create_task(gate.enter(PriorityLevel.STATUS))
    await asyncio.sleep(0.5)
    tired.cancel()
    await patient
    assert now() == pytest.approx(1.0, abs=0.01)
    assert tired.cancelled()


async def test_a_silence_of_nothing_is_still_a_pause() -> None:
    wire = Wire(lambda _: Answer(429, Retry_After="0"))
    with pytest.raises(Throttled):
        await over(wire).request(PriorityLevel.SHARD, "PATCH", "/a")
    assert now() >= 0.4


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        (
            {"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]},
            NamespaceEnds,
        ),
        ({"causes": [{"reason": "FieldValueInvalid"}]}, Refused),
        ({"causes": "nonsense"}, Refused),
        ([], Refused),
        (None, Refused),
    ],
)
def test_a_refusal_because_the_namespace_is_being_deleted_is_told_by_its_cause(
    details: object, kind: type[Exception]
) -> None:
    raw = json.dumps({"message": "no", "details": details}).encode()
    error = read_error("POST /x", 403, {}, raw)
    assert type(error) is kind
    assert error.said == "no"
