"""The rules of the Lease, and that no two replicas ever write at once, whatever goes wrong."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.operator.lease_world import Replica, World
from trainedmodel_operator.core.lease import (
    LONGEST_S,
    Record,
    Sighting,
    Step,
    Terms,
    decide,
    looks_again_in,
    next_record,
    released,
    see,
    writes_until,
)

TERMS = Terms()
HELD = Record("other", 15, "noon", "noon", 3)


def seen(record: Record = HELD, since: float = 100.0, version: str = "7") -> Sighting:
    return Sighting(record, version, since)


def test_where_no_lease_was_ever_seen_one_is_created() -> None:
    assert decide(see(None, None, "", 0), "me", TERMS, 0) is Step.CREATE


def test_one_that_was_given_back_is_taken_at_once() -> None:
    assert decide(seen(released(HELD, "one")), "me", TERMS, 100) is Step.TAKE


def test_a_holder_is_waited_for_as_long_as_its_lease_lasts_since_it_was_seen_to_change() -> None:
    assert decide(seen(), "me", TERMS, 114.9) is Step.WAIT
    assert decide(seen(), "me", TERMS, 115) is Step.TAKE


def test_what_counts_is_a_change_and_not_the_time_that_is_written() -> None:
    again = see(seen(), HELD, "8", 110)
    assert (again.since, again.version) == (100, "8"), "a label on the Lease is no sign of life"
    renewed = see(seen(), Record("other", 15, "noon", "years ago", 3), "8", 110)
    assert renewed.since == 110


@pytest.mark.parametrize(("said", "waits"), [(60, 60), (5, 15), (0, 15), (10**9, LONGEST_S)])
def test_the_longer_of_two_durations_counts_within_bounds(said: int, waits: float) -> None:
    sighting = seen(Record("other", said, "noon", "noon", 3))
    assert sighting.freed_at(TERMS) == 100 + waits


def test_deleting_a_lease_that_is_held_frees_it_for_nobody() -> None:
    gone = see(see(seen(), None, "", 105), None, "", 110)
    assert decide(gone, "me", TERMS, 119) is Step.WAIT, "it may have been renewed since it was seen"
    assert decide(gone, "me", TERMS, 120) is Step.CREATE
    assert decide(gone, "other", TERMS, 110, 112) is Step.CREATE, "its holder makes it anew at once"
    assert decide(gone, "other", TERMS, 113, 112) is Step.WAIT, "while it may write, no longer"
    free = see(seen(released(HELD, "one")), None, "", 110)
    assert decide(free, "me", TERMS, 124) is Step.WAIT, "it may have been taken since"
    assert decide(free, "me", TERMS, 125) is Step.CREATE


def test_its_holder_renews_and_counts_no_transition() -> None:
    assert decide(seen(), "other", TERMS, 10**9) is Step.RENEW
    assert next_record(seen(), "other", TERMS, "one") == Record("other", 15, "noon", "one", 3)


def test_who_takes_it_counts_a_transition_and_who_creates_it_none() -> None:
    assert next_record(seen(), "me", TERMS, "one") == Record("me", 15, "one", "one", 4)
    assert next_record(see(None, None, "", 0), "me", TERMS, "one").transitions == 0


def test_a_holder_writes_no_longer_than_its_deadline_after_it_sent_the_renewal() -> None:
    assert writes_until(100, TERMS) == 110


def test_a_holder_that_fails_tries_more_often_and_a_candidate_more_rarely() -> None:
    assert [looks_again_in(True, failures, TERMS) for failures in range(5)] == [2, 0.5, 1, 2, 2]
    assert [looks_again_in(False, failures, TERMS) for failures in range(4)] == [0.5, 1, 2, 2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"duration_s": 10},
        {"duration_s": LONGEST_S + 1},
        {"retry_s": 6.0},
        {"retry_s": 0.0},
        {"renew_deadline_s": 20.0},
    ],
)
def test_terms_that_could_make_two_leaders_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="deadline"):
        Terms(**wrong)  # type: ignore[arg-type]


events = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(
            ["turn"] * 6 + ["lose answer", "lose request", "late", "release", "die", "delete"]
        ),
        st.floats(0.01, 9, allow_nan=False),
    ),
    max_size=60,
)


#: Deleted when the standby has not looked for long, when a leader was frozen for long, and when
#: what was given back has been taken unseen.
Steps = list[tuple[int, str, float]]
NOBODY_LOOKED: Steps = [(0, "turn", 6), (0, "delete", 1), (1, "turn", 8)]
LONG_FROZEN: Steps = [(1, "turn", 1), (1, "turn", 5), (1, "turn", 9), (0, "delete", 1)]
TAKEN_UNSEEN: Steps = [(0, "release", 1), (0, "lose request", 1), (1, "turn", 1), (0, "delete", 1)]


@settings(max_examples=examples(600))
@example(NOBODY_LOOKED, (0.0, 0.0, 0.0), (TERMS, TERMS, TERMS))
@example([*LONG_FROZEN, (0, "turn", 1)], (0.0, 0.0, 0.0), (TERMS, TERMS, TERMS))
@example([*TAKEN_UNSEEN, (0, "turn", 1)], (0.0, 0.0, 0.0), (TERMS, TERMS, TERMS))
@given(
    events,
    st.tuples(*[st.floats(-(10**6), 10**6)] * 3),
    st.tuples(*[st.sampled_from([Terms(), Terms(duration_s=60, renew_deadline_s=40.0)])] * 3),
)
def test_o9_no_two_replicas_may_write_at_one_moment(
    steps: list[tuple[int, str, float]],
    offsets: tuple[float, ...],
    terms: tuple[Terms, ...],
) -> None:
    """Each clock shows another time; requests and answers are lost, or late by seconds.

    A replica that takes no turn for long is one that is frozen. All have seen the Lease once, as
    long as nobody deleted it before: who has seen nothing may not be kept waiting.
    """
    world = World([Replica(f"r{i}", offsets[i], terms[i]) for i in range(3)])
    for one in world.replicas:
        world.turn(one, "turn", 0)
    for number, what, pause_s in steps:
        world.now += pause_s
        world.turn(world.replicas[number], what, pause_s)
        assert len(world.writers()) <= 1


@given(events, st.integers(0, 2))
def test_o9_who_goes_on_looking_leads_in_the_end(
    steps: list[tuple[int, str, float]], last: int
) -> None:
    world = World([Replica(f"r{i}", 1000.0 * i, TERMS) for i in range(3)])
    for number, what, pause_s in steps:
        world.now += pause_s
        world.turn(world.replicas[number], what, pause_s)
    survivor = world.replicas[last]
    survivor.is_dead = False
    for _ in range(100):
        world.now += TERMS.poll_s
        world.turn(survivor, "turn", 0)
    assert world.writers() == [survivor]
