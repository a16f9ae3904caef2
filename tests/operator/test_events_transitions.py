"""What of a changed status is news."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_operator.core.status.transitions import Action, EventKind, Transition, transition


def status(
    accepted: tuple[str, str] = ("True", "Placed"),
    available: str = "False",
    ready: tuple[str, str] = ("False", "Downloading"),
    **more: Any,
) -> dict[str, Any]:
    def condition(kind: str, value: str, reason: str) -> dict[str, Any]:
        return {"type": kind, "status": value, "reason": reason, "message": f"{kind} words"}

    return {
        "revision": "aaaa",
        "copies": {"desired": 2, "ready": 2 if ready[0] == "True" else 0},
        "conditions": [
            condition("Accepted", *accepted),
            condition("Available", available, "NoCopyAvailable"),
            condition("Ready", *ready),
        ],
        **more,
    }


NEW: dict[str, Any] = {}
LOADING = status()
READY = status(available="True", ready=("True", "AllCopiesReady"))
REFUSED = status(accepted=("False", "NameConflict"), ready=("False", "NameConflict"))
FAILURE = {"pod": "pod-a", "reason": "ObjectNotFound", "message": "no such object", "attempt": 1}
FAILED = status(lastFailure=FAILURE)
UPDATING = status(available="True", revision="bbbb")
UPDATE_FAILED = status(
    available="True",
    revision="bbbb",
    lastFailure={**FAILURE, "reason": "LoadFailed"},
    pods=[{"name": "pod-a", "loadedRevision": "aaaa"}],
)
WITHOUT_PODS = status(ready=("False", "NoPods"))


def told(news: Transition | None) -> tuple[str, str] | None:
    return None if news is None else (str(news.kind), news.reason)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(NEW, LOADING, None, id="a-model-that-was-made-and-placed-is-no-news"),
        pytest.param(NEW, REFUSED, ("Warning", "NameConflict"), id="refused-from-the-beginning"),
        pytest.param(REFUSED, LOADING, ("Normal", "Accepted"), id="accepted-after-all"),
        pytest.param(LOADING, READY, ("Normal", "Ready"), id="ready"),
        pytest.param(NEW, READY, ("Normal", "Ready"), id="ready-at-first-sight"),
        pytest.param(LOADING, FAILED, ("Warning", "ObjectNotFound"), id="a-failure-came"),
        pytest.param(READY, UPDATING, ("Normal", "Updating"), id="an-update-begins"),
        pytest.param(UPDATING, UPDATE_FAILED, ("Warning", "LoadFailed"), id="an-update-failed"),
        pytest.param(READY, WITHOUT_PODS, ("Warning", "Unavailable"), id="all-copies-gone"),
        pytest.param(
            READY,
            status(available="True", ready=("False", "ServerUnreachable")),
            ("Warning", "NotReady"),
            id="one-copy-gone",
        ),
        pytest.param(
            READY,
            status(available="True", ready=("Unknown", "ReportStale")),
            ("Warning", "NotReady"),
            id="in-doubt",
        ),
        pytest.param(
            READY,
            status(accepted=("False", "InvalidSpec"), available="True"),
            ("Warning", "InvalidSpec"),
            id="a-refusal-is-told-before-what-follows-from-it",
        ),
    ],
)
def test_a_transition_is_told_by_its_most_telling_reason(
    before: dict[str, Any], after: dict[str, Any], expected: tuple[str, str] | None
) -> None:
    assert told(transition(before, after)) == expected


@pytest.mark.parametrize("same", [NEW, LOADING, READY, REFUSED, FAILED, UPDATING, UPDATE_FAILED])
def test_a_status_that_did_not_change_is_never_news(same: dict[str, Any]) -> None:
    assert transition(same, same) is None


def test_another_try_and_another_pod_that_fails_alike_are_no_news() -> None:
    again = status(lastFailure={**FAILURE, "pod": "pod-b", "attempt": 7})
    assert transition(FAILED, again) is None
    other = status(lastFailure={**FAILURE, "reason": "LoadFailed"})
    assert told(transition(FAILED, other)) == ("Warning", "LoadFailed")


def test_a_refusal_for_another_reason_is_news() -> None:
    other = status(accepted=("False", "ShardsFull"))
    assert told(transition(REFUSED, other)) == ("Warning", "ShardsFull")


def test_a_failed_update_says_which_revision_serves_on_and_where() -> None:
    news = transition(UPDATING, UPDATE_FAILED)
    assert news is not None
    assert news.note == "The pod keeps serving revision aaaa. pod-a: no such object"
    first = transition(LOADING, FAILED)
    assert first is not None
    assert first.note == "pod-a: no such object"


def test_ready_says_the_revision_and_in_how_many_pods() -> None:
    news = transition(LOADING, READY)
    words = "2 pods serve revision aaaa."
    assert news == Transition(EventKind.NORMAL, "Ready", Action.WATCH_COPIES, words)


def test_a_note_is_never_longer_than_the_api_takes() -> None:
    failure = {**FAILURE, "message": "ä" * 5000}
    news = transition(LOADING, status(lastFailure=failure))
    assert news is not None
    assert len(news.note.encode()) <= 1024
    assert news.note.endswith("...")


_WORDS = st.sampled_from(["True", "False", "Unknown"])
_STATUSES = st.builds(
    lambda accepted, available, ready, failure, revision: status(
        (accepted, "A"), available, (ready, "R"), lastFailure=failure, revision=revision
    ),
    _WORDS,
    _WORDS,
    _WORDS,
    st.one_of(st.none(), st.just(FAILURE)),
    st.sampled_from([None, "aaaa", "bbbb"]),
)


@given(_STATUSES, _STATUSES)
def test_any_two_statuses_give_at_most_one_usable_event(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    news = transition(before, after)
    if news is not None:
        assert before != after
        assert news.reason.isidentifier()
        assert news.note
