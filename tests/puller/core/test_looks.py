"""When sources of failed models are looked at."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from puller.plan_builders import NOW, entry, failure
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.core.looks import LOOK_S, Look, due, has_changed
from trainedmodel_puller.core.state import Failure, FailureKey, Stage

FAR = NOW + 10_000


def failed(at: float, until: float = FAR, reason: Reason = Reason.OBJECT_NOT_FOUND) -> Failure:
    made = failure("r1", Stage.DOWNLOAD, until)
    return replace(made, failed_at=at, reason=reason, entry=entry("a", "r1"))


def keys(count: int) -> list[FailureKey]:
    return [(f"m{number}", "r1") for number in range(count)]


@given(st.integers(1, 40), st.integers(1, 8), st.lists(st.floats(0, 9), min_size=40, max_size=40))
def test_a_source_is_listed_once_in_15_s_at_most_and_never_too_many_at_once(
    count: int, most: int, took: list[float]
) -> None:
    """Lives through five minutes of looks, second by second."""
    failures = {key: failed(NOW) for key in keys(count)}
    looks: dict[FailureKey, Look] = {}
    began: dict[FailureKey, list[float]] = {key: [] for key in failures}
    under_way: dict[FailureKey, float] = {}
    for second in range(300):
        now = NOW + second
        for key, ends in list(under_way.items()):
            if ends <= now:
                del under_way[key]
                looks[key] = Look(now, now - began[key][-1])
        busy = {name for name, _ in under_way}
        for key in due(failures, looks, busy, now, most - len(under_way)):
            began[key].append(now)
            under_way[key] = now + took[int(key[0][1:])]
        assert len(under_way) <= most
    for key, moments in began.items():
        gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
        seconds = took[int(key[0][1:])]
        assert all(gap >= max(LOOK_S, 20 * seconds) for gap in gaps)
        assert moments[0] >= NOW + LOOK_S
        assert moments  # nobody is forgotten, however many wait


def test_what_waits_longest_is_looked_at_first() -> None:
    first, second, third = keys(3)
    failures = {first: failed(NOW), second: failed(NOW - 50), third: failed(NOW - 20)}
    assert due(failures, {}, (), NOW + 20, 2) == [second, third]


def test_there_is_no_look_for_what_is_under_way_or_tried_soon_or_not_the_sources_fault() -> None:
    first, second, third, fourth = keys(4)
    failures = {
        first: failed(NOW - 50),
        second: failed(NOW - 50, until=NOW + 1),
        third: failed(NOW - 50, reason=Reason.VOLUME_ERROR),
        fourth: failed(NOW - 50),
    }
    assert due(failures, {}, {"m0"}, NOW, 8) == [fourth]


def test_only_a_source_that_can_be_listed_and_differs_has_changed() -> None:
    unlisted, listed = failed(NOW), replace(failed(NOW), fingerprint="one")
    assert not has_changed(unlisted, None)
    assert has_changed(unlisted, "one")
    assert not has_changed(listed, None)
    assert not has_changed(listed, "one")
    assert has_changed(listed, "two")
