"""What ends a wait: an early resync, a resync that finds the API well, a conflict that passes."""

from __future__ import annotations

import asyncio
from itertools import islice

import kopf
import pytest
from support.operator.builders import document
from support.operator.fake_kube import FakeKube, Operator
from trainedmodel_contract import names
from trainedmodel_operator.api.report_cache import ReportCache, page_size, report_page_size
from trainedmodel_operator.core.pacing.windows import Trigger
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.errors import Conflict, Refused, Unavailable
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.reconcile.resync import LONGEST_RETRY_S, SOON_S
from trainedmodel_operator.reconcile.work_queue import PassResult, WorkQueue
from trainedmodel_operator.watch.handlers import EventHandlers
from trainedmodel_operator.watch.kopf_runner import (
    LONGEST_PAUSE_S,
    SILENCE_S,
    STREAM_S,
    Backoffs,
    KopfRunner,
    kopf_settings,
)

pytestmark = pytest.mark.looptime

KEY = ServiceKey("demo", "tabular")


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_who_knows_that_something_was_lost_is_heard_soon_and_once() -> None:
    kube = FakeKube()
    operator = Operator(kube, resync_s=600.0)
    async with operator.running(resync=True):
        await asyncio.sleep(10)
        before = kube.calls["list_models"]
        kube.put_model(document("iris"))
        for _ in range(50):
            operator.resync.ask()
        await asyncio.sleep(SOON_S + 3)
        assert kube.count("shard") == 1
        rounds = kube.calls["list_models"] - before
        await asyncio.sleep(100)
        assert kube.calls["list_models"] - before == rounds, "once for all who asked"


async def test_who_waits_for_a_fresh_resync_waits_until_one_succeeds() -> None:
    kube = FakeKube()
    operator = Operator(kube, resync_s=600.0)
    async with operator.running(resync=True):
        await asyncio.sleep(10)
        kube.fault = lambda _: Unavailable("down", 503)
        fresh = asyncio.create_task(operator.resync.fresh())
        await asyncio.sleep(30)
        assert not fresh.done(), "the one before the outage does not count"
        kube.fault = lambda _: None
        await asyncio.sleep(1.5 * LONGEST_RETRY_S)
        assert fresh.done()


async def test_after_an_outage_nobody_waits_for_his_back_off() -> None:
    kube = FakeKube()
    operator = Operator(kube, resync_s=60.0)
    async with operator.running(resync=True):
        await asyncio.sleep(1)
        kube.fault = lambda _: Unavailable("down", 503)
        operator.apply(document("iris"))
        await asyncio.sleep(200)
        kube.fault = lambda _: None
        await asyncio.sleep(1.5 * LONGEST_RETRY_S)
        assert kube.count("shard") == 1, "the back-off alone would be a minute"


def queue_of(*outcomes: Exception | None) -> tuple[WorkQueue, list[float]]:
    left = list(outcomes)
    passes: list[float] = []

    async def reconcile(key: ServiceKey, may_write: bool) -> PassResult:
        passes.append(now())
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return PassResult()

    return WorkQueue(reconcile, Metrics(), jitter=lambda: 1.0), passes


async def run_for(queue: WorkQueue, seconds: float, *triggers: tuple[float, Trigger]) -> None:
    running = asyncio.create_task(queue.run())
    await asyncio.sleep(0)
    for at, trigger in triggers:
        await asyncio.sleep(at - now())
        queue.enqueue(KEY, trigger)
    await asyncio.sleep(seconds - now())
    running.cancel()
    await asyncio.wait([running])


async def test_a_resync_forgives_who_failed_because_the_api_was_down() -> None:
    queue, passes = queue_of(*[Unavailable("down", 503)] * 5)
    await run_for(queue, 40, (0, Trigger.MODEL), (16.5, Trigger.RESYNC))
    assert 16.5 in [pytest.approx(at, abs=0.1) for at in passes]


async def test_a_resync_does_not_forgive_who_was_refused() -> None:
    queue, passes = queue_of(*[Refused("no", 403)] * 5)
    await run_for(queue, 40, (0, Trigger.MODEL), (16.5, Trigger.RESYNC))
    assert passes == pytest.approx([0, 1, 3, 7, 15, 31], abs=0.2)


async def test_a_conflict_is_no_reason_to_wait_for_a_second() -> None:
    queue, passes = queue_of(*[Conflict("stale", 409)] * 3)
    await run_for(queue, 10, (0, Trigger.MODEL))
    assert len(passes) == 4
    assert passes[-1] < 0.5


async def test_a_writer_who_never_rests_does_not_make_the_queue_hot() -> None:
    queue, passes = queue_of(*[Conflict("stale", 409)] * 1000)
    await run_for(queue, 60, (0, Trigger.MODEL))
    assert 10 <= len(passes) <= 40


def test_only_an_object_that_is_listed_again_tells_of_a_gap() -> None:
    told: list[None] = []
    triggers = EventHandlers(lambda key, trigger: None, ReportCache(), lambda: told.append(None))
    iris = document("iris")
    triggers.model_event({"type": None, "object": iris})
    triggers.model_event({"type": "MODIFIED", "object": iris})
    assert told == [], "the first list of a start"
    triggers.model_event({"type": None, "object": iris})
    assert told == [None]


def test_kopf_is_told_to_be_patient_and_to_notice_silence() -> None:
    settings = kopf_settings()
    pauses = list(islice(iter(settings.networking.error_backoffs), 500))  # type: ignore[arg-type]
    assert max(pauses) <= LONGEST_PAUSE_S
    assert STREAM_S < SILENCE_S == settings.watching.inactivity_timeout
    assert isinstance(settings.watching.server_timeout, int), "the API server takes no fractions"
    assert settings.process.ultimate_exiting_timeout is None, "or its end kills our process"


def test_each_request_begins_with_short_pauses_again() -> None:
    backoffs = Backoffs(lambda: 1.0)
    assert list(islice(backoffs, 7)) == [1, 2, 4, 8, 16, 30, 30]
    assert next(iter(backoffs)) == 1


@pytest.mark.parametrize(
    ("models", "reports"), [(0, 500), (50, 500), (200, 200), (5000, 8), (100_000, 1)]
)
def test_so_many_reports_are_read_at_once_as_memory_allows(models: int, reports: int) -> None:
    assert report_page_size(models) == reports


@pytest.mark.parametrize(("models", "piece"), [(0, 500), (50, 500), (200, 200), (5000, 50)])
def test_lists_come_in_smaller_pieces_where_reports_are_long(models: int, piece: int) -> None:
    assert page_size(models) == piece
    assert kopf_settings(piece).watching.chunk_size == piece


async def test_kopf_is_given_a_name_and_asks_no_system_that_has_none_for_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[object] = []

    async def spawn(*, identity: object, **_: object) -> list[asyncio.Task[bool]]:
        given.append(identity)
        return [asyncio.create_task(asyncio.Event().wait())]

    async def broken() -> None:
        raise AssertionError("they have ended")

    monkeypatch.setattr(kopf, "spawn_tasks", spawn)
    watches = KopfRunner(kopf.OperatorRegistry, Metrics(), namespaces=["demo"], broken=broken)
    running = asyncio.create_task(watches.run())
    await asyncio.sleep(1)
    assert given == [names.MANAGED_BY]
    running.cancel()
    await asyncio.wait([running])
