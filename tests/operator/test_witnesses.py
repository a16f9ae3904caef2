"""Many copies judged at once are judged as each by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.operator.builders import pod, report
from trainedmodel_contract.modelreport import ModelReport
from trainedmodel_operator.core.report_reader import ReportReader
from trainedmodel_operator.core.status.copies import ADVANCE, CopyInput, judge
from trainedmodel_operator.core.status.pod_verdicts import PodViews

PODS = tuple(pod(f"pod-{letter}") for letter in "abcd")

said = st.fixed_dictionaries(
    {"state": st.sampled_from(["Loaded", "Waiting", "Failed", "Downloading", "Dreaming"])},
    optional={
        "revision": st.sampled_from(["r1", "r2"]),
        "loadedRevision": st.sampled_from(["r1", "r2"]),
        "reason": st.sampled_from(["Queued", "ObjectNotFound"]),
        "message": st.just("words"),
        "bytes": st.integers(0, 10),
        "attempt": st.integers(1, 3),
    },
)
reports = st.fixed_dictionaries(
    {
        "models": st.dictionaries(st.sampled_from(["m", "n"]), said),
        "reachable": st.booleans(),
    }
)


@given(
    given_reports=st.lists(st.none() | reports, min_size=4, max_size=4),
    stale=st.sets(st.sampled_from([one.uid for one in PODS])),
    revision=st.sampled_from(["r1", "r2", None]),
)
def test_witnesses_judge_as_the_rules_do(
    given_reports: list[dict[str, Any] | None], stale: set[str], revision: str | None
) -> None:
    by_pod = {
        one.uid: report(one, **content)
        for one, content in zip(PODS, given_reports, strict=True)
        if content is not None
    }
    expected = []
    for one in PODS:
        told = by_pod.get(one.uid)
        word = None if told is None else told.models.get("m")
        copy = judge(CopyInput(one, told, word, revision, one.uid in stale))
        expected.append(replace(copy, reported=None) if copy.ready else copy)
    expected.sort(key=lambda copy: (ADVANCE[copy.state], copy.pod))
    found = [
        replace(copy, reported=None) if copy.ready else copy
        for copy in PodViews(PODS, by_pod, stale).evaluate("m", revision)
    ]
    assert found == expected


def test_pods_that_are_not_meant_to_serve_are_no_witnesses() -> None:
    pods = (pod("pod-a"), pod("pod-b", terminating=True), pod("pod-c", phase="Failed"))
    assert [copy.pod for copy in PodViews(pods, {}).evaluate("m", "r1")] == ["pod-a"]


def document(name: str, **models: Any) -> dict[str, Any]:
    owner = {"kind": "Pod", "name": name, "uid": f"uid-{name}"}
    return {
        "metadata": {"name": name, "ownerReferences": [owner]},
        "inferenceService": "tabular",
        "models": models,
    }


@given(st.dictionaries(st.sampled_from(["m", "n", "o"]), said))
def test_a_reader_reads_what_the_contract_reads(models: dict[str, Any]) -> None:
    told = document("pod-a", **models)
    assert ReportReader().read(told) == ModelReport.model_validate(told)


def test_what_two_reports_say_alike_is_kept_once() -> None:
    reader = ReportReader()
    settled = {"state": "Loaded", "revision": "r1"}
    first = reader.read(document("pod-a", m=dict(settled)))
    second = reader.read(document("pod-b", m=dict(settled)))
    assert first.models["m"] is second.models["m"]
    assert next(iter(first.models)) is next(iter(second.models))


def test_what_nobody_says_any_more_is_forgotten() -> None:
    reader = ReportReader()
    told = reader.read(document("pod-a", m={"state": "Loaded", "revision": "r1"}))
    assert len(reader._known) == 1
    del told
    assert len(reader._known) == 0


@pytest.mark.parametrize(
    "models", [{"m": 7}, {"m": {"state": ["Loaded"]}}, {"m": {"bytes": {}}}, {"m": None}, [1]]
)
def test_garbage_is_no_report(models: Any) -> None:
    told = {**document("pod-a"), "models": models}
    with pytest.raises(ValidationError):
        ReportReader().read(told)
