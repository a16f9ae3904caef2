"""Leadership in virtual time: a Lease in memory that is slow, silent and lied about on order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from trainedmodel_operator.core.lease import Record, Terms
from trainedmodel_operator.errors import (
    Conflict,
    LeadershipLost,
    NotFound,
    NotLeading,
    Unreachable,
)
from trainedmodel_operator.leadership.leader import Leader
from trainedmodel_operator.leadership.lease_store import Found
from trainedmodel_operator.observability.metrics import Metrics

TERMS = Terms()


class FakeLease:
    """A Lease in memory, with faults to order."""

    def __init__(self) -> None:
        self.record: Record | None = None
        self.version = 0
        self.delay_s = 0.01
        self.answer_delay_s = 0.0
        self.fault: Exception | None = None
        self.has_namespace = True
        self.remembered: Record | None = None
        self.writes: list[tuple[float, str]] = []

    async def read(self, *, exact: bool) -> Found:
        await self._arrive()
        if self.remembered is not None and not exact:
            return Found(self.remembered, "0")
        return Found(self.record, str(self.version) if self.record else "")

    async def create(self, record: Record) -> str:
        await self._arrive()
        if not self.has_namespace:
            raise NotFound("no such namespace", 404)
        if self.record is not None:
            raise Conflict("it is there", 409)
        return await self._store(record)

    async def change(self, version: str, record: Record) -> str:
        await self._arrive()
        if self.record is None:
            raise NotFound("it is gone", 404)
        if version != str(self.version):
            raise Conflict("somebody was faster", 409)
        return await self._store(record)

    def put(self, record: Record | None) -> None:
        self.record = record
        self.version += 1

    @property
    def holder(self) -> str:
        return self.record.holder if self.record else ""

    async def _arrive(self) -> None:
        await asyncio.sleep(self.delay_s)
        if self.fault is not None:
            raise self.fault

    async def _store(self, record: Record) -> str:
        self.put(record)
        self.writes.append((asyncio.get_running_loop().time(), record.holder))
        version = str(self.version)
        await asyncio.sleep(self.answer_delay_s)
        return version


class Candidate:
    """A leader-to-be and its work."""

    def __init__(self, lease: FakeLease, name: str, terms: Terms = TERMS) -> None:
        loop = asyncio.get_running_loop()
        self.skipped_s = 0.0
        self.metrics = Metrics()
        self.leader = Leader(
            lease,
            name,
            terms,
            self.metrics,
            clock=lambda: loop.time() + self.skipped_s,
            jitter=lambda: 0.5,
            date=lambda: f"{loop.time()}",
        )
        self.began = asyncio.Event()
        self.ended = asyncio.Event()
        self.failure: Exception | None = None
        self.task = asyncio.create_task(self.leader.run(self._work))

    async def _work(self) -> None:
        self.began.set()
        try:
            if self.failure is not None:
                raise self.failure
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@pytest.fixture
def lease() -> FakeLease:
    return FakeLease()


Compete = Callable[..., Candidate]


@pytest.fixture
async def compete(lease: FakeLease) -> AsyncIterator[Compete]:
    candidates: list[Candidate] = []

    def start(name: str, terms: Terms = TERMS) -> Candidate:
        candidates.append(Candidate(lease, name, terms))
        return candidates[-1]

    yield start
    for one in candidates:
        await one.stop()
        with contextlib.suppress(asyncio.CancelledError, ExceptionGroup):
            one.task.result()


async def lost_reason(one: Candidate) -> str:
    with pytest.raises(ExceptionGroup) as caught:
        await one.task
    (failure,) = caught.value.exceptions
    assert isinstance(failure, LeadershipLost)
    return str(failure)


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.looptime
async def test_one_leads_and_renews_while_the_other_knows_nothing(
    lease: FakeLease, compete: Compete
) -> None:
    first = compete("first")
    await first.began.wait()
    second = compete("second")
    await asyncio.sleep(60)
    assert not second.began.is_set()
    assert {holder for _, holder in lease.writes} == {"first"}
    assert 25 <= len(lease.writes) <= 32, "it renews every two seconds"
    assert (first.leader.is_leading, second.leader.is_leading) == (True, False)
    assert second.leader.turned_at is not None
    assert now() - second.leader.turned_at < 1
    with pytest.raises(NotLeading):
        second.leader.fence()
    first.leader.fence()


@pytest.mark.looptime
async def test_o9_who_is_told_to_end_has_ended_its_work_before_the_next_one_begins(
    lease: FakeLease, compete: Compete
) -> None:
    first = compete("first")
    await first.began.wait()
    second = compete("second")
    await asyncio.sleep(5)
    at = now()
    first.task.cancel()
    await first.ended.wait()
    assert not second.began.is_set()
    await second.began.wait()
    assert now() - at < 0.7
    assert lease.record is not None
    assert lease.record.transitions == 1


@pytest.mark.looptime
async def test_o9_work_that_fails_gives_the_lease_back(lease: FakeLease, compete: Compete) -> None:
    first = compete("first")
    first.failure = RuntimeError("bug")
    with pytest.raises(ExceptionGroup):
        await first.task
    assert lease.holder == ""


@pytest.mark.looptime
async def test_o9_a_lease_that_cannot_be_renewed_is_lost_at_the_deadline(
    lease: FakeLease, compete: Compete
) -> None:
    first = compete("first")
    await first.began.wait()
    await asyncio.sleep(7)
    renewed_at = lease.writes[-1][0] - lease.delay_s  # when it was sent
    lease.delay_s = 10**6  # nobody answers any more
    assert await lost_reason(first) == "not renewed for 10 s"
    assert now() - renewed_at == pytest.approx(TERMS.renew_deadline_s, abs=0.1)
    assert first.ended.is_set()


@pytest.mark.looptime
async def test_an_outage_that_is_shorter_than_the_deadline_is_survived(
    lease: FakeLease, compete: Compete
) -> None:
    first = compete("first")
    await first.began.wait()
    for _ in range(5):
        lease.fault = Unreachable("nobody there")
        await asyncio.sleep(6)
        lease.fault = None
        await asyncio.sleep(3)
        assert first.leader.is_leading


@pytest.mark.looptime
async def test_o9_the_fence_shuts_at_the_deadline_before_anything_else_runs(
    lease: FakeLease, compete: Compete
) -> None:
    first = compete("first")
    await first.began.wait()
    first.leader.fence()
    first.skipped_s = TERMS.renew_deadline_s  # frozen, and thawed: no task has run in between
    with pytest.raises(NotLeading):
        first.leader.fence()
    writes = len(lease.writes)
    assert await lost_reason(first) == "not renewed for 10 s"
    assert len(lease.writes) == writes, "it does not even give back what may be another's"


@pytest.mark.looptime
async def test_o9_an_answer_that_comes_after_the_deadline_is_no_leadership(
    lease: FakeLease, compete: Compete
) -> None:
    lease.answer_delay_s = 3
    first = compete("first")
    await asyncio.sleep(1)
    first.skipped_s = TERMS.renew_deadline_s  # frozen while the answer was on its way
    await asyncio.sleep(2.5)
    assert lease.holder == "first"
    assert not first.began.is_set()
    lease.answer_delay_s = 0
    await first.began.wait()
    first.leader.fence()


@pytest.mark.looptime
async def test_a_lease_whose_answer_was_lost_is_found_to_be_ours(
    lease: FakeLease, compete: Compete
) -> None:
    lease.answer_delay_s = 10**6
    first = compete("first")
    await asyncio.sleep(4)
    lease.answer_delay_s = 0
    await first.began.wait()
    assert now() < 8
    assert {holder for _, holder in lease.writes} == {"first"}


@pytest.mark.looptime
async def test_who_is_told_to_end_while_it_takes_the_lease_gives_it_back(
    lease: FakeLease, compete: Compete
) -> None:
    lease.answer_delay_s = 3
    first = compete("first")
    await asyncio.sleep(1)
    assert lease.holder == "first"
    lease.answer_delay_s = 0
    await first.stop()
    assert lease.holder == ""


@pytest.mark.looptime
async def test_a_lease_that_cannot_be_given_back_delays_the_end_by_a_second_at_most(
    lease: FakeLease, compete: Compete
) -> None:
    first = compete("first")
    await first.began.wait()
    lease.delay_s = 10**6
    at = now()
    await first.stop()
    assert now() - at < 1.1


@pytest.mark.looptime
async def test_a_label_on_the_lease_ends_nobody(lease: FakeLease, compete: Compete) -> None:
    first = compete("first")
    await first.began.wait()
    for _ in range(5):
        lease.version += 1
        await asyncio.sleep(3.1)
    assert first.leader.is_leading


@pytest.mark.looptime
async def test_an_api_server_that_remembers_the_leader_before_ends_nobody(
    lease: FakeLease, compete: Compete
) -> None:
    first = compete("first")
    await first.began.wait()
    lease.remembered = Record("before", 15, "", "", 0)
    lease.version += 1  # so that it is read again
    await asyncio.sleep(20)
    assert first.leader.is_leading
    lease.version += 1
    await first.stop()
    assert lease.holder == "", "nor is the Lease kept for that"


@pytest.mark.looptime
async def test_o9_a_lease_that_a_hand_gave_away_is_lost_and_not_taken_back(
    lease: FakeLease, compete: Compete
) -> None:
    first = compete("first")
    await first.began.wait()
    lease.put(Record("stranger", 15, "", "", 9))
    assert await lost_reason(first) == "stranger holds the Lease"
    assert lease.holder == "stranger"


@pytest.mark.looptime
async def test_a_lease_that_a_hand_deleted_is_made_anew(lease: FakeLease, compete: Compete) -> None:
    first, second = compete("first"), None
    await first.began.wait()
    second = compete("second")
    await asyncio.sleep(1)
    lease.put(None)
    await asyncio.sleep(5)
    assert lease.holder == "first"
    assert not second.began.is_set()


@pytest.mark.looptime
async def test_a_namespace_that_is_missing_is_waited_for(
    lease: FakeLease, compete: Compete
) -> None:
    lease.has_namespace = False
    first = compete("first")
    await asyncio.sleep(20)
    assert not first.began.is_set()
    assert first.leader.reached_at is None
    lease.has_namespace = True
    await asyncio.sleep(3)
    assert first.leader.is_leading


@pytest.mark.looptime
async def test_the_metric_says_who_leads(compete: Compete) -> None:
    def said(one: Candidate) -> float | None:
        return one.metrics.registry.get_sample_value("trainedmodel_operator_leader")

    first = compete("first")
    await first.began.wait()
    second = compete("second")
    await asyncio.sleep(1)
    assert (said(first), said(second)) == (1, 0)
    await first.stop()
    await second.began.wait()
    assert (said(first), said(second)) == (0, 1)
