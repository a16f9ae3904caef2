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
    PriorityLevel,
    RateLimiter,
    pause_asked,
)
from trainedmodel_operator.core.pacing.token_bucket import TokenBucket

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def spent(limiter: RateLimiter, level: PriorityLevel, count: int, now: float) -> RateLimiter:
    for _ in range(count):
        limiter = limiter.sent(level, now)
    return limiter


@pytest.mark.parametrize("level", PriorityLevel)
def test_who_has_rested_may_send_at_once(level: PriorityLevel) -> None:
    assert RateLimiter().due(level, 100.0) <= 100.0


def test_a_lane_that_is_silent_silences_the_less_urgent_ones_and_no_other() -> None:
    limiter = RateLimiter().paused(PriorityLevel.NUDGE, 107.0)
    dues = {level: limiter.due(level, 100.0) for level in PriorityLevel}
    assert dues[PriorityLevel.READ] <= 100 >= dues[PriorityLevel.SHARD]
    assert (
        dues[PriorityLevel.NUDGE] == dues[PriorityLevel.STATUS] == dues[PriorityLevel.EVENT] == 107
    )


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    limiter = RateLimiter().paused(PriorityLevel.STATUS, 130.0).paused(PriorityLevel.STATUS, 101.0)
    assert limiter.due(PriorityLevel.STATUS, 100.0) == 130


def test_a_flood_of_statuses_is_bounded_and_delays_no_shard() -> None:
    limiter = spent(RateLimiter(), PriorityLevel.STATUS, int(BURST), 100.0)
    assert limiter.due(PriorityLevel.STATUS, 100.0) == pytest.approx(100 + 1 / WRITES_PER_S)
    assert limiter.due(PriorityLevel.SHARD, 100.0) <= 100.0
    assert limiter.due(PriorityLevel.READ, 100.0) <= 100.0
    assert limiter.due(PriorityLevel.STATUS, 101.0) <= 101.0


def test_shards_leave_the_others_at_most_a_second_of_debt() -> None:
    limiter = spent(RateLimiter(), PriorityLevel.SHARD, 5000, 100.0)
    assert limiter.due(PriorityLevel.SHARD, 100.0) <= 100.0
    assert 100.9 < limiter.due(PriorityLevel.STATUS, 100.0) < 101.1


def test_reads_take_no_token() -> None:
    limiter = spent(RateLimiter(), PriorityLevel.READ, 5000, 100.0)
    assert limiter == RateLimiter()


def test_ten_thousand_statuses_take_as_long_as_the_docstring_says() -> None:
    limiter, now = RateLimiter(), 0.0
    for _ in range(10_000):
        now = max(now, limiter.due(PriorityLevel.STATUS, now))
        limiter = limiter.sent(PriorityLevel.STATUS, now)
    assert 25 < now < 35


def test_while_nobody_answers_all_lanes_pause_ever_longer_but_never_long() -> None:
    limiter, now, pauses = RateLimiter(), 100.0, []
    for _ in range(20):
        limiter = limiter.unanswered(now, 1.0)
        pauses.append(limiter.due(PriorityLevel.READ, now) - now)
        now = limiter.due(PriorityLevel.READ, now)
    assert pauses[:3] == pytest.approx([0.25, 0.5, 1.0])
    assert max(pauses) == pytest.approx(LONGEST_OUTAGE_PAUSE_S)


def test_many_that_fail_together_are_one_outage_and_an_answer_ends_it() -> None:
    limiter = RateLimiter()
    for _ in range(16):
        limiter = limiter.unanswered(100.0, 1.0)
    assert limiter.due(PriorityLevel.SHARD, 100.0) == pytest.approx(100.25)
    assert limiter.answered().due(PriorityLevel.SHARD, 100.0) <= 100.0
    assert limiter.answered().outages == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["sent", "silenced", "unanswered", "answered"]),
        st.sampled_from(PriorityLevel),
        st.floats(0, 5),
    ),
    max_size=40,
)


@given(STEPS)
def test_no_lane_opens_before_a_more_urgent_one(
    steps: list[tuple[str, PriorityLevel, float]],
) -> None:
    limiter, now = RateLimiter(TokenBucket.full(rate=2, burst=3)), 0.0
    for step, level, seconds in steps:
        now += seconds / 3
        if step == "sent":
            limiter = limiter.sent(level, now)
        elif step == "silenced":
            limiter = limiter.paused(level, now + seconds)
        elif step == "unanswered":
            limiter = limiter.unanswered(now, 0.5)
        else:
            limiter = limiter.answered()
        dues = [max(now, limiter.due(level, now)) for level in PriorityLevel]
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
