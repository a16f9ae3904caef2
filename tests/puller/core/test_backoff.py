"""Pauses after failures: bounded, and reset by progress."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.core.backoff import (
    LONGEST_S,
    PROGRESS_BYTES,
    backoff_s,
    begin_again_s,
    failures_in_a_row,
    pause_s,
)

CHANCE = st.floats(0, 1, exclude_max=True)
KEEPS = [Reason.SOURCE_UNREACHABLE, Reason.SOURCE_STALLED, Reason.SOURCE_ERROR]


@given(st.integers(0, 10_000), CHANCE)
def test_a_wait_is_bounded_and_never_nothing(count: int, jitter: float) -> None:
    assert 0.5 <= backoff_s(count, jitter) <= LONGEST_S


def test_a_pause_doubles_from_its_first_to_its_longest() -> None:
    pauses = [pause_s(count, 0.5, 5.0, jitter=0.0) for count in range(1, 7)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


@given(st.integers(0, 10_000), CHANCE)
def test_jitter_shortens_a_pause_by_half_at_most(count: int, jitter: float) -> None:
    nominal = pause_s(count, 0.5, 30.0, jitter=0.0)
    assert nominal / 2 <= pause_s(count, 0.5, 30.0, jitter=jitter) <= nominal


@given(st.integers(0, 100), st.sampled_from(KEEPS), st.integers(PROGRESS_BYTES, 2**50))
def test_a_try_that_moved_on_is_no_failure_in_a_row(
    before: int, reason: Reason, gained: int
) -> None:
    assert failures_in_a_row(before, reason, gained) == 1


@given(
    st.integers(0, 100),
    st.sampled_from([reason for reason in Reason if reason not in KEEPS]),
    st.integers(0, 2**50),
)
def test_what_will_be_fetched_again_anyway_is_no_progress(
    before: int, reason: Reason, gained: int
) -> None:
    assert failures_in_a_row(before, reason, gained) == before + 1


@given(st.integers(0, 100), st.sampled_from(list(Reason)), st.integers(0, PROGRESS_BYTES - 1))
def test_a_store_that_sends_next_to_nothing_is_not_hammered(
    before: int, reason: Reason, gained: int
) -> None:
    assert failures_in_a_row(before, reason, gained) == before + 1


@given(st.sampled_from(list(Reason)), CHANCE, st.booleans())
def test_cuts_without_progress_end_a_fetch_after_a_few(
    reason: Reason, jitter: float, has_moved: bool
) -> None:
    pauses = []
    for idle_cuts in range(1, 10):
        pause_s = begin_again_s(reason, idle_cuts, jitter, has_moved=has_moved)
        if pause_s is None:
            break
        pauses.append(pause_s)
    assert len(pauses) <= 2
    assert all(pause_s > 0 for pause_s in pauses)
    assert has_moved or not pauses


@given(st.sampled_from(KEEPS[:2]), CHANCE, st.booleans())
def test_a_stream_that_had_moved_begins_again_soon(
    reason: Reason, jitter: float, has_moved: bool
) -> None:
    pause_s = begin_again_s(reason, 0, jitter, has_moved=has_moved)
    assert pause_s is not None
    assert 0 < pause_s <= 0.1
