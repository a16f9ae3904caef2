"""Back-off: pauses double up to a limit, and jitter spreads them."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_operator.core.pacing.backoff import doubled_s, pause_s

FAILURES = st.integers(0, 10**6)
JITTER = st.floats(0, 1)


def test_pauses_double_from_the_first_to_the_longest() -> None:
    pauses = [doubled_s(failures, first_s=0.5, longest_s=3) for failures in range(5)]
    assert pauses == [0.5, 1, 2, 3, 3]


@pytest.mark.parametrize(("jitter", "pause"), [(0.0, 2.0), (0.5, 3.0), (1.0, 4.0)])
def test_jitter_shortens_a_pause_by_up_to_half(jitter: float, pause: float) -> None:
    assert pause_s(2, jitter, first_s=1, longest_s=60) == pause


@given(FAILURES, JITTER)
def test_any_count_of_failures_has_a_pause_within_its_bounds(failures: int, jitter: float) -> None:
    assert 0.5 <= pause_s(failures, jitter, first_s=1, longest_s=60) <= 60
    assert pause_s(failures, jitter, first_s=1, longest_s=inf) < inf


@given(FAILURES, JITTER)
def test_a_further_failure_never_shortens_the_pause(failures: int, jitter: float) -> None:
    before, after = (
        pause_s(count, jitter, first_s=1, longest_s=60) for count in (failures, failures + 1)
    )
    assert before <= after
