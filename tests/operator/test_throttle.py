"""When a request may be sent: pauses, outages and tokens, by lane."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_operator.core.pacing.rate_limiter import (
    BURST,
    LONGEST_OUTAGE_PAUSE_S,
    LONGEST_PAUSE_S,
    WRITES_PER_S,
    Lane,
    Throttle,
    pause_asked,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def spent(throttle: Throttle, lane: Lane, count: int, now: float) -> Throttle:
    for _ in range(count):
        throttle = throttle.sent(lane, now)
    return throttle


@pytest.mark.parametrize("lane", Lane)
def test_who_has_rested_may_send_at_once(lane: Lane) -> None:
    assert Throttle().due(lane, 100.0) <= 100.0


def test_a_lane_that_is_silent_silences_the_less_urgent_ones_and_no_other() -> None:
    throttle = Throttle().silenced(Lane.NUDGE, 107.0)
    dues = {lane: throttle.due(lane, 100.0) for lane in Lane}
    assert dues[Lane.READ] <= 100 >= dues[Lane.SHARD]
    assert dues[Lane.NUDGE] == dues[Lane.STATUS] == dues[Lane.EVENT] == 107


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    throttle = Throttle().silenced(Lane.STATUS, 130.0).silenced(Lane.STATUS, 101.0)
    assert throttle.due(Lane.STATUS, 100.0) == 130


def test_a_flood_of_statuses_is_bounded_and_delays_no_shard() -> None:
    throttle = spent(Throttle(), Lane.STATUS, int(BURST), 100.0)
    assert throttle.due(Lane.STATUS, 100.0) == pytest.approx(100 + 1 / WRITES_PER_S)
    assert throttle.due(Lane.SHARD, 100.0) <= 100.0
    assert throttle.due(Lane.READ, 100.0) <= 100.0
    assert throttle.due(Lane.STATUS, 101.0) <= 101.0


def test_shards_leave_the_others_at_most_a_second_of_debt() -> None:
    throttle = spent(Throttle(), Lane.SHARD, 5000, 100.0)
    assert throttle.due(Lane.SHARD, 100.0) <= 100.0
    assert 100.9 < throttle.due(Lane.STATUS, 100.0) < 101.1


def test_reads_take_no_token() -> None:
    throttle = spent(Throttle(), Lane.READ, 5000, 100.0)
    assert throttle == Throttle()


def test_ten_thousand_statuses_take_as_long_as_the_docstring_says() -> None:
    throttle, now = Throttle(), 0.0
    for _ in range(10_000):
        now = max(now, throttle.due(Lane.STATUS, now))
        throttle = throttle.sent(Lane.STATUS, now)
    assert 25 < now < 35


def test_while_nobody_answers_all_lanes_pause_ever_longer_but_never_long() -> None:
    throttle, now, pauses = Throttle(), 100.0, []
    for _ in range(20):
        throttle = throttle.unanswered(now, 1.0)
        pauses.append(throttle.due(Lane.READ, now) - now)
        now = throttle.due(Lane.READ, now)
    assert pauses[:3] == pytest.approx([0.25, 0.5, 1.0])
    assert max(pauses) == pytest.approx(LONGEST_OUTAGE_PAUSE_S)


def test_many_that_fail_together_are_one_outage_and_an_answer_ends_it() -> None:
    throttle = Throttle()
    for _ in range(16):
        throttle = throttle.unanswered(100.0, 1.0)
    assert throttle.due(Lane.SHARD, 100.0) == pytest.approx(100.25)
    assert throttle.answered().due(Lane.SHARD, 100.0) <= 100.0
    assert throttle.answered().outages == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["sent", "silenced", "unanswered", "answered"]),
        st.sampled_from(Lane),
        st.floats(0, 5),
    ),
    max_size=40,
)


@given(STEPS)
def test_no_lane_opens_before_a_more_urgent_one(steps: list[tuple[str, Lane, float]]) -> None:
    throttle, now = Throttle(rate=2, burst=3, tokens=3), 0.0
    for step, lane, seconds in steps:
        now += seconds / 3
        if step == "sent":
            throttle = throttle.sent(lane, now)
        elif step == "silenced":
            throttle = throttle.silenced(lane, now + seconds)
        elif step == "unanswered":
            throttle = throttle.unanswered(now, 0.5)
        else:
            throttle = throttle.answered()
        dues = [max(now, throttle.due(lane, now)) for lane in Lane]
        assert dues == sorted(dues)
        assert dues[-1] < now + LONGEST_PAUSE_S


def http_date(at: datetime) -> str:
    return at.strftime("%a, %d %b %Y %H:%M:%S GMT")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("86400", LONGEST_PAUSE_S),
        (http_date(NOW + timedelta(seconds=9)), 9.0),
        (http_date(NOW - timedelta(hours=1)), 0.0),
        (http_date(NOW + timedelta(days=1)), LONGEST_PAUSE_S),
        (None, None),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("²", None),
    ],
)
def test_a_pause_is_asked_for_in_seconds_or_by_a_date(
    header: str | None, seconds: float | None
) -> None:
    assert pause_asked(header, NOW) == seconds
