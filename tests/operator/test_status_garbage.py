"""Reports that fit the schema and are nonsense, or somebody else's: never Ready, never an error."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.examples import examples
from support.operator.builders import KEY, NOW, one, pod, shard_of
from trainedmodel_contract.conditions import find_condition
from trainedmodel_contract.modelreport import ModelReport
from trainedmodel_contract.reasons import Reason, State
from trainedmodel_contract.trainedmodel import TrainedModelStatus
from trainedmodel_operator.core.plan import plan
from trainedmodel_operator.core.pods import Readiness
from trainedmodel_operator.core.shards.placement import Verdict
from trainedmodel_operator.core.state import Gathered
from trainedmodel_operator.core.status.status import model_status

PLACED = Verdict(True, Reason.ACCEPTED, "The entry is in shard 0.")
A, B = pod("pod-a"), pod("pod-b", readiness=Readiness.NEVER)
MODEL = one()
assert MODEL.model is not None
REVISION = MODEL.model.revision()

WORDS = st.text(max_size=64)
REASONS = st.sampled_from([reason.value for reason in Reason]) | WORDS
REVISIONS = st.sampled_from([REVISION, "66bb", ""]) | WORDS
NUMBERS = st.integers() | st.sampled_from([-(2**63), 2**63, 10**400, 0])
TIMES = st.datetimes(timezones=st.none() | st.just(UTC)).map(datetime.isoformat) | st.sampled_from(
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "2026-03-01T12:00:00.5Z"]
)
SAID = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from([state.value for state in State]) | WORDS,
        "revision": REVISIONS,
        "loadedRevision": REVISIONS,
        "reason": REASONS,
        "message": st.text(max_size=80),
        "bytes": NUMBERS,
        "totalBytes": NUMBERS,
        "attempt": NUMBERS,
        "failedTime": TIMES,
        "nextRetryTime": TIMES,
        "future": WORDS,
    },
)
REPORTS = st.fixed_dictionaries(
    {"models": st.dictionaries(st.sampled_from(["iris", "wine"]), SAID)},
    optional={
        "configDigest": WORDS,
        "configProblem": st.fixed_dictionaries({"reason": REASONS, "message": WORDS}),
        "server": st.fixed_dictionaries(
            {"kind": WORDS, "reachable": st.booleans()}, optional={"message": WORDS, "since": TIMES}
        ),
        "inferenceService": st.just(KEY.service) | WORDS,
    },
)


def parsed(document: dict[str, Any], name: str = "pod-a", uid: str = "uid-pod-a") -> ModelReport:
    owner = {"kind": "Pod", "name": name, "uid": uid}
    metadata = {"name": name, "ownerReferences": [owner]}
    return ModelReport.model_validate({**document, "metadata": metadata})


def ready(status: dict[str, Any]) -> str:
    return str(find_condition(status, "Ready")["status"])


@settings(max_examples=examples(150))
@given(REPORTS, REPORTS, st.sets(st.sampled_from(["uid-pod-a", "uid-pod-b"])), st.booleans())
def test_a_status_is_total_on_any_report_and_ready_only_by_a_servers_word(
    first: dict[str, Any], second: dict[str, Any], stale: set[str], accepted: bool
) -> None:
    try:
        reports = {
            A.uid: parsed(first),
            B.uid: parsed(second, "pod-b", B.uid),
        }
    except ValidationError:
        return  # no report at all: the cache says so, and it counts as missing
    verdict = PLACED if accepted else Verdict(False, Reason.INVALID_SPEC, "spec: no")
    status = model_status(MODEL, verdict, [A, B], reports, NOW, stale=stale)
    json.dumps(status, allow_nan=False)
    TrainedModelStatus.model_validate(status)
    assert status["state"] in {state.value for state in State}
    again = model_status(one(status=status), verdict, [B, A], reports, NOW, stale=stale)
    assert again == status, "and it is not written again"
    if ready(status) == "True":
        assert accepted
        said = reports[A.uid].models["iris"]
        server = reports[A.uid].server
        assert server is not None
        assert server.reachable
        assert (said.state, said.revision) == ("Loaded", REVISION)
        assert A.uid not in stale


@settings(max_examples=examples(50))
@given(REPORTS)
def test_no_report_stops_a_pass(document: dict[str, Any]) -> None:
    try:
        report = parsed(document)
    except ValidationError:
        return
    start = Gathered(KEY, (MODEL,), (shard_of(0, [MODEL]),), (A,), {A.uid: report})
    decided = plan(start, NOW)
    if report.inference_service != KEY.service:
        assert ready(dict(decided.statuses[0].status)) == "False"


LOADED = {
    "inferenceService": KEY.service,
    "server": {"kind": "mlserver", "reachable": True},
    "models": {"iris": {"revision": REVISION}},
}


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (parsed(LOADED), None),
        (parsed({**LOADED, "inferenceService": "another"}), "ReportMissing"),
        (parsed(LOADED, "pod-a", "uid-of-an-older-pod-a"), "ReportMissing"),
        (parsed(LOADED, "pod-z", "uid-pod-z"), "ReportMissing"),
    ],
    ids=["its own", "of another service", "of a pod that is gone", "of another pod"],
)
def test_only_the_report_of_the_very_pod_for_this_service_makes_a_model_ready(
    report: ModelReport, reason: str | None
) -> None:
    reports = {report.pod_uid or "": report}
    start = Gathered(KEY, (MODEL,), (shard_of(0, [MODEL]),), (A,), reports)
    (write,) = plan(start, NOW).statuses
    assert ready(dict(write.status)) == ("False" if reason else "True")
    assert write.status.get("reason") == reason


def test_a_large_reports_settled_model_goes_without_a_state() -> None:
    assert parsed(LOADED).models["iris"].state == State.LOADED
    bare = parsed({**LOADED, "models": {"iris": {}}})
    status = model_status(MODEL, PLACED, [A], {A.uid: bare}, NOW)
    assert (ready(status), status["reason"]) == ("False", "ConfigNotSeen")
