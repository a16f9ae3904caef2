"""A token bucket: a burst, then one for each token that comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_operator.core.pacing.token_bucket import TokenBucket


def test_a_rested_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    bucket, now, times = TokenBucket.full(rate=2, burst=3), 10.0, []
    for _ in range(6):
        now = bucket.due(now)
        times.append(now)
        bucket = bucket.taken(now)
    assert times == [10, 10, 10, 10.5, 11, 11.5]


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = TokenBucket.full(rate=2, burst=3).taken(0.0)
    assert bucket.held(0.0) == 2
    assert bucket.held(0.25) == 2.5
    assert bucket.held(1000.0) == 3


def test_a_debt_delays_the_next_token_and_has_a_limit() -> None:
    bucket = TokenBucket(rate=2, burst=3, tokens=0, at=0.0)
    for _ in range(10):
        bucket = bucket.taken(0.0, most_debt=2)
    assert bucket.held(0.0) == -2
    assert bucket.due(0.0) == pytest.approx(1.5)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=50))
def test_in_any_time_no_more_leave_than_burst_and_rate_allow(waits: list[float]) -> None:
    bucket, now, taken = TokenBucket.full(rate=2, burst=3), 0.0, 0
    for wait in waits:
        now += wait
        while bucket.due(now) <= now:
            bucket, taken = bucket.taken(now), taken + 1
    assert taken <= 3 + 2 * now + 1e-6
