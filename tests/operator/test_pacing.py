from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from trainedmodel_operator.core.pacing.windows import (
    LastWrite,
    Pace,
    Trigger,
    Weight,
    status_due,
    weigh,
)


def shard_writes(
    triggers: list[tuple[float, Trigger]], cost: float = 0.02, *, until: float = 60.0
) -> list[float]:
    """Simulate a service: each model bell brings something to write; return when it was written."""
    pace, now, waiting = Pace(), 0.0, False
    written: list[float] = []
    queue = sorted(triggers, key=lambda one: one[0])
    while now < until:
        due = pace.due()
        if queue and queue[0][0] <= max(due, now):
            now = max(now, queue[0][0])
            _, trigger = queue.pop(0)
            pace = pace.triggered(trigger, now)
            waiting = waiting or trigger is Trigger.MODEL
            continue
        if due == inf:
            break
        now = max(now, due)
        is_open = pace.may_write_shards(now)
        pace = pace.begun()
        began, now = now, now + cost
        writes = waiting and is_open
        held_back = waiting and not is_open
        if writes:
            written.append(began)
            waiting = False
        pace = pace.finished(began, now, wrote=writes, held_back=held_back)
    assert not waiting, "what was asked for is written"
    return written


def test_a_single_change_is_written_at_once() -> None:
    assert shard_writes([(3.0, Trigger.MODEL)]) == [3.0]


@pytest.mark.parametrize("seconds", [0.1, 1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 13.0])
def test_two_hundred_models_are_at_most_five_writes_even_from_a_slow_client(seconds: float) -> None:
    triggers = [(seconds * number / 200, Trigger.MODEL) for number in range(200)]
    assert len(shard_writes(triggers)) <= 5


@pytest.mark.parametrize("pause_s", [0.3, 0.7, 1.0, 1.9, 3.0])
def test_models_that_come_one_by_one_wait_for_no_window(pause_s: float) -> None:
    triggers = [(pause_s * number, Trigger.MODEL) for number in range(20)]
    written = shard_writes(triggers, until=100)
    assert written == pytest.approx([at for at, _ in triggers])


def test_one_that_comes_alone_waits_as_long_as_a_costly_pass_asks_for() -> None:
    written = shard_writes([(number, Trigger.MODEL) for number in range(20)], cost=0.5, until=100)
    assert all(later - sooner >= 4 * 0.5 for sooner, later in pairwise(written))


def test_one_that_comes_alone_makes_the_writes_of_a_burst_no_more() -> None:
    burst = [(3.0 + number / 40, Trigger.MODEL) for number in range(200)]
    assert len(shard_writes([(0.0, Trigger.MODEL), (1.0, Trigger.MODEL), *burst])) <= 2 + 4


def test_a_burst_is_written_by_and_by_and_its_end_within_the_longest_window() -> None:
    written = shard_writes([(number / 40, Trigger.MODEL) for number in range(200)])
    assert written[0] == 0.0
    assert len(written) == 3
    assert written[-1] - 5.0 <= 0.3


def test_an_endless_burst_is_written_every_few_seconds() -> None:
    written = shard_writes([(number / 10, Trigger.MODEL) for number in range(600)], until=70)
    gaps = [later - sooner for sooner, later in pairwise(written)]
    assert all(2.0 <= gap <= 4.1 for gap in gaps[:-1])


def test_reports_never_open_the_shard_window() -> None:
    models = [(number / 40, Trigger.MODEL) for number in range(200)]
    reports = [(number / 100, Trigger.REPORT) for number in range(1000)]
    assert len(shard_writes(models + reports)) <= 5


def report_passes(triggers: list[float], cost: float = 0.02) -> list[float]:
    """Simulate a service whose reports change; return when it was looked at."""
    pace, looked = Pace(), []
    for number, at in enumerate(triggers):
        pace = pace.triggered(Trigger.REPORT, at)
        following = triggers[number + 1] if number + 1 < len(triggers) else inf
        if (due := max(pace.due(), at)) < following:
            looked.append(due)
            pace = pace.begun().finished(due, due + cost)
    return looked


def test_the_first_report_after_quiet_is_looked_at_at_once() -> None:
    assert report_passes([1.0, 3.0, 9.0]) == [1.0, 3.0, 9.0]


def test_a_report_right_after_a_pass_waits_a_twentieth_of_a_second() -> None:
    assert report_passes([1.0, 1.03], cost=0.005)[-1] == pytest.approx(1.055)


def test_reports_that_keep_coming_are_looked_at_twice_a_second() -> None:
    looked = report_passes([number / 100 for number in range(1000)])
    gaps = [later - sooner for sooner, later in pairwise(looked)]
    assert gaps[:5] == sorted(gaps[:5])
    assert all(gap >= 0.5 for gap in gaps[5:])
    assert len(looked) <= 25


def test_after_quiet_the_next_change_is_written_at_once_again() -> None:
    triggers = [(number / 40, Trigger.MODEL) for number in range(200)]
    assert shard_writes([*triggers, (20.0, Trigger.MODEL)])[-1] == 20.0


def test_an_expensive_parent_is_looked_at_more_rarely() -> None:
    triggers = [(number / 10, Trigger.MODEL) for number in range(100)]
    gaps = shard_writes(triggers, cost=1.0)
    assert min(later - sooner for sooner, later in pairwise(gaps)) >= 5.0


@given(
    times=st.lists(st.floats(0, 30), min_size=1, max_size=60),
    kinds=st.lists(st.sampled_from(Trigger), min_size=60, max_size=60),
    cost=st.floats(0.001, 0.4),
)
@settings(max_examples=examples(100))
def test_shard_writes_keep_their_distance_whatever_rings(
    times: list[float], kinds: list[Trigger], cost: float
) -> None:
    written = shard_writes(list(zip(times, kinds, strict=False)), cost)
    gaps = [later - sooner for sooner, later in pairwise(written)]
    assert all(gap >= 0.25 for gap in gaps)


def test_a_failed_pass_is_made_again_ever_more_slowly_and_at_last_each_minute() -> None:
    pace, now, pauses = Pace().triggered(Trigger.MODEL, 0.0), 0.0, []
    for _ in range(9):
        pace = pace.begun().failed(now, jitter=1.0)
        pauses.append(pace.due() - now)
        now = pace.due()
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert pace.begun().failed(now, jitter=0.0).due() - now == 30
    healed = pace.begun().finished(now, now, wrote=False)
    assert (healed.failures, healed.due()) == (0, inf)


def test_a_bell_does_not_shorten_a_back_off() -> None:
    pace = Pace().begun().failed(10.0, jitter=1.0)
    assert pace.triggered(Trigger.MODEL, 10.2).due() == 11.0


def test_a_pass_may_ask_to_be_made_again() -> None:
    assert Pace().finished(0.0, 0.1, wrote=False, again_at=7.0).due() == 7.0


def test_a_pace_is_forgotten_only_when_it_says_nothing_any_more() -> None:
    pace = Pace().begun().finished(0.0, 0.0, wrote=True)
    assert pace.forgettable_at() == 2.5
    assert Pace().forgettable_at() == -inf


def said(generation: int = 1, *, ready: str = "False", failed: bool = False) -> dict[str, object]:
    status: dict[str, object] = {
        "observedGeneration": generation,
        "conditions": [{"type": "Accepted", "status": "True"}, {"type": "Ready", "status": ready}],
    }
    return {**status, "lastFailure": {"pod": "a"}} if failed else status


def test_what_people_wait_for_is_urgent() -> None:
    assert weigh({}, said()) is Weight.URGENT
    assert weigh({"observedGeneration": 1}, said()) is Weight.URGENT
    assert weigh(said(1), said(2)) is Weight.URGENT
    assert weigh(said(), said(ready="True")) is Weight.URGENT
    assert weigh(said(), said(failed=True)) is Weight.URGENT
    assert weigh(said(failed=True), said()) is Weight.URGENT


def test_progress_and_copies_tell_something() -> None:
    waiting = {**said(), "state": "Waiting"}
    assert weigh(waiting, {**waiting, "state": "Downloading"}) is Weight.TELLING
    downloading = {**said(), "state": "Downloading", "reason": "42%"}
    assert weigh(downloading, {**downloading, "reason": "43%"}) is Weight.TELLING
    assert weigh(waiting, {**waiting, "copies": {"ready": 1}}) is Weight.TELLING
    failed = {**said(failed=True), "state": "Failed"}
    again = {**failed, "lastFailure": {"pod": "a", "attempt": 2}}
    assert weigh(failed, again) is Weight.TELLING


def test_being_still_on_the_way_does_not() -> None:
    waiting = {**said(), "state": "Waiting", "reason": "ConfigNotSeen"}
    assert weigh(waiting, {**waiting, "reason": "Queued"}) is Weight.IDLE
    assert weigh(waiting, {**waiting, "state": "Loading"}) is Weight.IDLE


def test_all_else_waits_its_turn() -> None:
    urgent, telling = LastWrite(1.0, Weight.URGENT), LastWrite(1.0, Weight.TELLING)
    assert status_due(None, Weight.IDLE, 7.0) == 7.0
    assert status_due(urgent, Weight.URGENT, 7.0) == 7.0
    assert status_due(urgent, Weight.TELLING, 3.0) == 6.0
    assert status_due(telling, Weight.TELLING, 3.0) == 16.0
    assert status_due(telling, Weight.TELLING, 30.0) == 30.0
    assert status_due(urgent, Weight.IDLE, 3.0) == 61.0
