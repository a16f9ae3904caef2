from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.operator.builders import KEY, NOW, document, loaded, one, pod, report
from trainedmodel_contract.conditions import find_condition
from trainedmodel_contract.reasons import Reason, State
from trainedmodel_contract.trainedmodel import TrainedModelStatus
from trainedmodel_operator.core.pods import Readiness
from trainedmodel_operator.core.shards.placement import Verdict
from trainedmodel_operator.core.state import DesiredModel, PodView, read_models, read_pod
from trainedmodel_operator.core.status.copies import CopyInput, pod_says_so
from trainedmodel_operator.core.status.status import is_same, model_status

PLACED = Verdict(True, Reason.ACCEPTED, "The entry is in shard 0.")
A, B, C = pod("pod-a"), pod("pod-b"), pod("pod-c")


def told(model: DesiredModel, pods: list[PodView], reports: list[Any], **more: Any) -> Any:
    by_pod = {one.pod_uid: one for one in reports}
    return model_status(model, more.get("verdict", PLACED), pods, by_pod, more.get("now", NOW))


def said(model: DesiredModel, state: str, **more: Any) -> dict[str, Any]:
    assert model.model is not None
    return {model.name: {"state": state, "revision": model.model.revision(), **more}}


def test_ready_means_that_every_pods_server_serves_this_revision() -> None:
    model = one()
    status = told(model, [A, B], [report(A, loaded(model)), report(B, loaded(model))])
    assert status["state"] == "Loaded"
    assert "reason" not in status
    assert status["copies"] == {"desired": 2, "ready": 2, "failed": 0, "summary": "2/2"}
    assert "pods" not in status
    for kind in ("Accepted", "Available", "Ready"):
        assert find_condition(status, kind)["status"] == "True"
        assert find_condition(status, kind)["observedGeneration"] == 1
    TrainedModelStatus.model_validate(status)


def test_an_entry_that_a_pod_cannot_read_is_told_in_the_pods_words() -> None:
    model = one()
    words = {model.name: {"state": "Failed", "reason": "InvalidEntry", "message": "not JSON"}}
    status = told(model, [A], [report(A, words)])
    assert (status["state"], status["reason"]) == ("Failed", "InvalidEntry")


DOUBTS = [
    ("a report of an old pod of the same name", {"owner": "uid-gone"}, "ReportMissing"),
    ("a server that does not answer", {"reachable": False}, "ServerUnreachable"),
    ("another revision", {"revision": "77aa"}, "ConfigNotSeen"),
    ("no word about the model", {"silent": True}, "ConfigNotSeen"),
    ("an old revision still loaded", {"loadedRevision": "66bb"}, "InProgress"),
    ("a state of a newer puller", {"state": "Warming"}, "InternalError"),
    ("loading", {"state": "Loading"}, "InProgress"),
]


@pytest.mark.parametrize(("doubt", "change", "reason"), DOUBTS, ids=[one[0] for one in DOUBTS])
def test_a_copy_is_not_ready_on(doubt: str, change: dict[str, Any], reason: str) -> None:
    model, loadable = one(), {"revision", "loadedRevision", "state"}
    entry = {**loaded(model)["iris"]}
    entry.update({key: change[key] for key in change if key in loadable})
    models = {} if change.get("silent") else {"iris": entry}
    given_report = report(A, models, reachable=change.get("reachable", True))
    reports = {change.get("owner", A.uid): given_report}
    status = model_status(model, PLACED, [A], reports, NOW)
    assert find_condition(status, "Ready")["status"] == "False"
    assert status["copies"]["ready"] == 0
    assert status["pods"][0]["name"] == "pod-a"
    assert status["pods"][0]["reason"] == reason
    assert find_condition(status, "Ready")["message"].startswith("pod-a: ")


@pytest.mark.parametrize(
    "ended", [pod(terminating=True), pod(phase="Succeeded"), pod(phase="Failed")]
)
def test_a_pod_that_ends_or_has_ended_is_no_copy(ended: PodView) -> None:
    model = one()
    status = told(model, [ended, B], [report(ended, {}), report(B, loaded(model))])
    assert status["copies"]["summary"] == "1/1"
    assert find_condition(status, "Ready")["status"] == "True"


def test_o7_without_pods_a_model_is_pending_with_a_reason() -> None:
    status = told(one(), [], [])
    assert (status["state"], status["reason"]) == ("Pending", "NoPods")
    assert find_condition(status, "Available")["reason"] == "NoPods"
    assert "spec.inferenceService" in find_condition(status, "Ready")["message"]


def test_the_state_is_that_of_the_least_advanced_copy() -> None:
    model = one()
    reports = [
        report(A, loaded(model)),
        report(B, said(model, "Downloading", bytes=430, totalBytes=1000)),
        report(C, said(model, "Verifying")),
    ]
    status = told(model, [A, B, C], reports)
    assert (status["state"], status["reason"]) == ("Downloading", "43%")
    ready = find_condition(status, "Ready")
    assert ready["reason"] == "Downloading"
    assert ready["message"] == "pod-b: 430 of 1000 B (and 1 more of 3 pods)"
    assert find_condition(status, "Available")["message"].startswith("1 of 3 pods")


def test_progress_is_over_the_bytes_of_all_downloads() -> None:
    model, gib = one(), 1024**3
    reports = [
        report(A, said(model, "Downloading", bytes=gib, totalBytes=3 * gib)),
        report(B, said(model, "Downloading", totalBytes=gib)),
        report(C, said(model, "Downloading")),
    ]
    status = told(model, [A, B, C], reports)
    assert status["reason"] == "25%"
    assert [one["message"] for one in status["pods"]] == [
        "1.0 of 3.0 GiB",
        "0.0 of 1.0 GiB",
        "In progress.",
    ]


def test_progress_without_sizes_is_a_word() -> None:
    model = one()
    assert told(model, [A], [report(A, said(model, "Downloading"))])["reason"] == "InProgress"


def test_available_means_that_some_server_serves_some_revision() -> None:
    model = one()
    updating = said(model, "Downloading", loadedRevision="66bb")
    assert find_condition(told(model, [A], [report(A, updating)]), "Available")["status"] == "True"
    silent = told(model, [A], [report(A, updating, reachable=False)])
    assert find_condition(silent, "Available")["status"] == "False"
    assert silent["state"] == "Downloading", "a download needs no server"


def test_an_unreadable_mount_is_told_in_the_pods_words() -> None:
    problem = {"reason": "ConfigUnreadable", "message": "shard 0: 3 of 4 entries"}
    status = told(one(), [A], [report(A, {}, configProblem=problem)])
    assert status["reason"] == "ConfigUnreadable"
    assert find_condition(status, "Ready")["message"] == "pod-a: shard 0: 3 of 4 entries"
    wordless = report(A, {}, configProblem={"reason": "ConfigUnreadable"})
    assert "last good configuration" in told(one(), [A], [wordless])["pods"][0]["message"]


def test_a_silent_server_is_told_in_the_pullers_words() -> None:
    model = one()
    server = {"kind": "triton", "reachable": False, "message": "connection refused"}
    status = told(model, [A], [report(A, loaded(model), server=server)])
    assert find_condition(status, "Ready")["message"] == "pod-a: connection refused"
    unknown = told(model, [A], [report(A, loaded(model), server=None)])
    assert unknown["reason"] == "ServerUnreachable"


FAILED = {
    "reason": "ObjectNotFound",
    "message": "no such key",
    "attempt": 3,
    "failedTime": "2026-03-01T11:00:00Z",
    "nextRetryTime": "2026-03-01T12:05:00+00:00",
}


def test_the_newest_failure_is_told_with_its_retry() -> None:
    model = one()
    older = {**FAILED, "failedTime": "2026-03-01T10:00:00Z", "message": "older"}
    reports = [
        report(A, said(model, "Failed", **older)),
        report(B, said(model, "Failed", **FAILED)),
    ]
    status = told(model, [A, B], reports)
    assert status["copies"]["failed"] == 2
    assert status["lastFailure"] == {
        "pod": "pod-b",
        "reason": "ObjectNotFound",
        "message": "no such key",
        "time": "2026-03-01T11:00:00Z",
        "attempt": 3,
        "nextRetryTime": "2026-03-01T12:05:00Z",
    }
    assert (status["state"], status["reason"]) == ("Failed", "ObjectNotFound")
    TrainedModelStatus.model_validate(status)


def test_a_failure_is_told_even_without_times_and_with_a_reason_of_a_newer_puller() -> None:
    model = one()
    status = told(model, [A], [report(A, said(model, "Blocked", reason="Cosmic"))])
    assert status["lastFailure"] == {
        "pod": "pod-a",
        "reason": "Cosmic",
        "message": "",
        "attempt": 0,
    }
    assert find_condition(status, "Ready")["message"] == "pod-a: Blocked: Cosmic"


def test_a_failure_stays_while_its_copy_retries_and_goes_when_it_is_ready() -> None:
    failed = told(one(), [A], [report(A, said(one(), "Failed", **FAILED))])
    model = one(status=failed)
    retrying = report(A, said(model, "Downloading", attempt=3))
    assert told(model, [A], [retrying])["lastFailure"] == failed["lastFailure"]
    fresh = report(A, said(model, "Downloading"))
    assert "lastFailure" not in told(model, [A], [fresh])
    assert "lastFailure" not in told(model, [A], [report(A, loaded(model))])
    assert "lastFailure" not in told(model, [B], [report(B, said(model, "Downloading", attempt=1))])


def test_a_transition_time_moves_only_when_the_status_does() -> None:
    first = told(one(), [A], [])
    later = NOW + timedelta(hours=1)
    model = one(status=first)
    second = told(model, [A], [report(A, loaded(model))], now=later)
    assert find_condition(second, "Accepted")["lastTransitionTime"] == "2026-03-01T12:00:00Z"
    assert find_condition(second, "Ready")["lastTransitionTime"] == "2026-03-01T13:00:00Z"


def test_a_model_that_is_not_accepted_is_blocked_and_keeps_telling_who_serves_it() -> None:
    model = one(memory="lots", status={"revision": "9f3a"})
    refused = Verdict(False, Reason.INVALID_SPEC, "spec.model.memory: not a quantity")
    serving = report(A, {"iris": {"state": "Loaded", "revision": "9f3a"}})
    status = told(model, [A], [serving], verdict=refused)
    assert (status["state"], status["reason"]) == ("Blocked", "InvalidSpec")
    assert status["revision"] == "9f3a"
    assert find_condition(status, "Available")["status"] == "True"
    assert find_condition(status, "Ready")["message"] == "spec.model.memory: not a quantity"
    assert status["copies"]["summary"] == "0/1"


def test_at_most_ten_copies_are_listed_the_least_advanced_first() -> None:
    model = one()
    pods = [pod(f"pod-{number:02}") for number in range(14)]
    reports = [
        report(one, said(model, "Failed" if number == 13 else "Loading"))
        for number, one in enumerate(pods)
    ]
    listed = told(model, pods, reports)["pods"]
    assert [one["name"] for one in listed] == ["pod-13", *(f"pod-{n:02}" for n in range(9))]


@given(
    states=st.lists(st.sampled_from([state.value for state in State]), min_size=1, max_size=5),
    reachable=st.booleans(),
    attempt=st.integers(0, 3),
)
def test_equal_input_gives_an_equal_status_that_is_not_written_again(
    states: list[str], reachable: bool, attempt: int
) -> None:
    model = one()
    pods = [pod(f"pod-{number}") for number in range(len(states))]
    reports = [
        report(one, said(model, state, attempt=attempt), reachable=reachable)
        for one, state in zip(pods, states, strict=True)
    ]
    first = told(model, pods, reports)
    again = one_with(first)
    second = told(again, list(reversed(pods)), reports, now=NOW + timedelta(days=1))
    assert is_same(first, second)
    TrainedModelStatus.model_validate(first)


def one_with(status: dict[str, Any]) -> DesiredModel:
    return one(status=status)


def test_a_model_under_deletion_is_not_desired() -> None:
    going = document("iris")
    going["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z"
    assert read_models([going]) == ()


def test_a_newer_status_takes_the_place_of_the_one_that_was_listed() -> None:
    (model,) = read_models(
        [document("iris", status={"state": "Old"})], {"uid-iris": {"state": "New"}}
    )
    assert model.status == {"state": "New"}


def test_a_pod_is_read_as_far_as_decisions_need() -> None:
    metadata = {"name": "a", "uid": "u", "deletionTimestamp": "2026-03-01T12:00:00Z"}
    assert read_pod({"metadata": metadata, "status": {"phase": "Running"}}) == PodView(
        "a", "u", terminating=True, readiness=Readiness.UNTOLD
    )


def test_a_pod_without_a_word_has_nothing_to_say_in_its_own_words() -> None:
    assert pod_says_so(CopyInput(A, None, None, "9f3a")) is None


def test_a_parent_is_written_as_people_write_it() -> None:
    assert str(KEY) == "demo/tabular"
