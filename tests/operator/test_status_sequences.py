"""Status over time: what `kubectl wait` and people see while a model comes, changes and scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from support.operator.builders import NOW, loaded, one, pod, report
from trainedmodel_contract.conditions import find_condition
from trainedmodel_contract.modelreport import ModelReport
from trainedmodel_contract.reasons import Reason
from trainedmodel_operator.core.pods import Readiness
from trainedmodel_operator.core.shards.placement import Verdict
from trainedmodel_operator.core.state import DesiredModel, PodView
from trainedmodel_operator.core.status.status import model_status

PLACED = Verdict(True, Reason.ACCEPTED, "The entry is in shard 0.")
OLD = one()
NEW = one(generation=2, version="2")
BACK = one(generation=3)
A, B, C = pod("pod-a"), pod("pod-b"), pod("pod-c")


def revision(model: DesiredModel) -> str:
    assert model.model is not None
    return model.model.revision()


def says(of: PodView, model: DesiredModel, state: str, **more: Any) -> ModelReport:
    return report(of, {"iris": {"state": state, "revision": revision(model), **more}})


def serves(of: PodView, model: DesiredModel) -> ModelReport:
    return report(of, loaded(model))


class Timeline:
    """One model's status, pass after pass, each from the one before."""

    def __init__(self) -> None:
        self._status: Mapping[str, Any] = {}
        self._now = NOW

    def see(
        self, model: DesiredModel, pods: list[PodView], *reports: ModelReport, stale: str = ""
    ) -> tuple[str, str, str]:
        """Make a pass; return Ready, Available and the copies."""
        self._now += timedelta(seconds=5)
        by_pod = {one.pod_uid or "": one for one in reports}
        self._status = model_status(
            replace(model, status=self._status),
            PLACED,
            pods,
            by_pod,
            self._now,
            stale=frozenset(stale.split()),
        )
        for condition in self._status["conditions"]:
            assert condition["observedGeneration"] == model.generation
        return self.of("Ready"), self.of("Available"), self._status["copies"]["summary"]

    def of(self, kind: str, field: str = "status") -> str:
        return str(find_condition(self._status, kind)[field])

    @property
    def words(self) -> tuple[str, Any]:
        return self._status["state"], self._status.get("reason")

    def has_ended(self, model: DesiredModel, kind: str = "Ready") -> bool:
        """Tell whether `kubectl wait --for=condition=kind` returns after an apply of `model`."""
        observed = int(self.of(kind, "observedGeneration"))
        return observed >= model.generation and self.of(kind) == "True"


def starting(name: str) -> PodView:
    return pod(name, readiness=Readiness.NEVER)


def test_a_wait_for_a_new_model_ends_with_the_last_pod_and_not_before() -> None:
    line = Timeline()
    assert line.see(OLD, []) == ("False", "False", "0/0")
    assert line.see(OLD, [A, B], report(A), report(B)) == ("False", "False", "0/2")
    assert line.see(OLD, [A, B], serves(A, OLD), report(B)) == ("False", "True", "1/2")
    assert not line.has_ended(OLD)
    assert line.has_ended(OLD, "Available")
    loading = says(B, OLD, "Loading")
    assert line.see(OLD, [A, B], serves(A, OLD), loading) == ("False", "True", "1/2")
    assert line.see(OLD, [A, B], serves(A, OLD), serves(B, OLD)) == ("True", "True", "2/2")
    assert line.has_ended(OLD)


def test_a_wait_for_an_update_sees_no_old_truth_and_available_stays_true() -> None:
    line = Timeline()
    line.see(OLD, [A, B], serves(A, OLD), serves(B, OLD))
    assert not line.has_ended(NEW), "before the first pass, the old generation is told"
    assert line.see(NEW, [A, B], serves(A, OLD), serves(B, OLD)) == ("False", "True", "0/2")
    assert line.words == ("Waiting", "ConfigNotSeen")
    for state in ("Downloading", "Verifying", "Loading"):
        coming = says(A, NEW, state, loadedRevision=revision(OLD))
        assert line.see(NEW, [A, B], coming, serves(B, OLD)) == ("False", "True", "0/2")
    assert line.see(NEW, [A, B], serves(A, NEW), serves(B, OLD)) == ("False", "True", "1/2")
    assert line.see(NEW, [A, B], serves(A, NEW), serves(B, NEW)) == ("True", "True", "2/2")
    assert line.has_ended(NEW)


def test_a_wait_for_a_rollback_of_a_broken_update() -> None:
    line = Timeline()
    line.see(OLD, [A], serves(A, OLD))
    broken = says(A, NEW, "Failed", loadedRevision=revision(OLD), reason="LoadFailed", attempt=2)
    assert line.see(NEW, [A], broken) == ("False", "True", "0/1")
    assert line.words == ("Failed", "LoadFailed")
    assert not line.has_ended(BACK)
    assert line.see(BACK, [A], broken) == ("False", "True", "0/1")
    assert line.words == ("Waiting", "ConfigNotSeen")
    assert line.see(BACK, [A], serves(A, BACK)) == ("True", "True", "1/1")
    assert line.has_ended(BACK)


def test_a_scale_up_turns_ready_off_for_nobody() -> None:
    line = Timeline()
    line.see(OLD, [A], serves(A, OLD))
    since = line.of("Ready", "lastTransitionTime")
    b, c = starting("pod-b"), starting("pod-c")
    told = [
        line.see(OLD, [A, b, c], serves(A, OLD)),
        line.see(OLD, [A, b, c], serves(A, OLD), report(b, {}, reachable=False)),
        line.see(OLD, [A, b, c], serves(A, OLD), says(b, OLD, "Downloading", bytes=1)),
    ]
    assert told == [("True", "True", "1/3")] * 3
    assert line.words == ("Loaded", "PodsStarting")
    assert line.of("Ready", "message").endswith("(2 of 3 pods)")
    assert line.see(OLD, [A, b, c], serves(A, OLD), serves(b, OLD)) == ("True", "True", "2/3")
    everywhere = [serves(one, OLD) for one in (A, B, C)]
    assert line.see(OLD, [A, B, C], *everywhere) == ("True", "True", "3/3")
    assert line.words[1] is None
    assert line.of("Ready", "lastTransitionTime") == since, "it never flapped"


def test_a_pod_that_no_kubelet_has_spoken_of_is_starting_until_it_reports() -> None:
    line, unseen = Timeline(), pod("pod-b", readiness=Readiness.UNTOLD)
    assert line.see(OLD, [A, unseen], serves(A, OLD)) == ("True", "True", "1/2")
    assert line.see(OLD, [A, unseen], serves(A, OLD), report(unseen)) == ("False", "True", "1/2")


def test_a_new_revision_is_not_ready_until_every_pod_that_serves_has_it() -> None:
    line, b = Timeline(), starting("pod-b")
    assert line.see(NEW, [A, b], serves(A, OLD), serves(b, NEW)) == ("False", "True", "1/2")
    assert line.see(NEW, [A, b], serves(A, NEW)) == ("True", "True", "1/2")


def test_while_every_pod_is_starting_a_model_is_not_ready_before_one_serves_it() -> None:
    line, a, b = Timeline(), starting("pod-a"), starting("pod-b")
    assert line.see(OLD, [a, b]) == ("False", "False", "0/2")
    assert line.words == ("Waiting", "ReportMissing")
    assert line.see(OLD, [a, b], says(a, OLD, "Loading")) == ("False", "False", "0/2")
    assert line.see(OLD, [a, b], serves(a, OLD)) == ("True", "True", "1/2")


def test_a_failure_in_a_starting_pod_counts() -> None:
    line, b = Timeline(), starting("pod-b")
    failed = says(b, OLD, "Failed", reason="ObjectNotFound", attempt=1)
    assert line.see(OLD, [A, b], serves(A, OLD), failed) == ("False", "True", "1/2")
    assert line.words == ("Failed", "ObjectNotFound")


def test_a_server_that_crashes_turns_ready_off_until_it_has_everything_again() -> None:
    line = Timeline()
    line.see(OLD, [A, B], serves(A, OLD), serves(B, OLD))
    crashed = report(B, loaded(OLD), reachable=False)
    assert line.see(OLD, [A, B], serves(A, OLD), crashed) == ("False", "True", "1/2")
    assert line.words == ("Waiting", "ServerUnreachable")
    assert line.see(OLD, [A, B], serves(A, OLD), serves(B, OLD)) == ("True", "True", "2/2")


def test_a_rolling_restart_never_turns_ready_off() -> None:
    line, new = Timeline(), starting("pod-c")
    going = replace(B, terminating=True)
    line.see(OLD, [A, B], serves(A, OLD), serves(B, OLD))
    steps = [
        line.see(OLD, [A, B, new], serves(A, OLD), serves(B, OLD)),
        line.see(OLD, [A, B, new], serves(A, OLD), serves(B, OLD), serves(new, OLD)),
        line.see(OLD, [A, going, C], serves(A, OLD), report(B, {}), serves(C, OLD)),
        line.see(OLD, [A, C], serves(A, OLD), serves(C, OLD), serves(B, OLD)),
    ]
    assert {ready for ready, _, _ in steps} == {"True"}
    assert [copies for _, _, copies in steps] == ["2/3", "3/3", "2/2", "2/2"]


def test_a_silent_puller_is_a_doubt_and_no_failure() -> None:
    line = Timeline()
    reports = (serves(A, OLD), serves(B, OLD))
    line.see(OLD, [A, B], *reports)
    assert line.see(OLD, [A, B], *reports, stale="uid-pod-b") == ("Unknown", "True", "1/2")
    assert line.words == ("Waiting", "ReportStale")
    assert line.of("Ready", "reason") == "ReportStale"
    assert line.of("Ready", "message").startswith("pod-b: A pod's puller has written nothing")
    assert line.see(OLD, [A, B], *reports, stale="uid-pod-a uid-pod-b") == (
        "Unknown",
        "Unknown",
        "0/2",
    )
    assert line.see(OLD, [A, B], *reports) == ("True", "True", "2/2")


@pytest.mark.parametrize(
    "worse",
    [says(A, OLD, "Failed", reason="LoadFailed"), says(A, OLD, "Loading"), report(A, {})],
    ids=["failed", "loading", "unseen"],
)
def test_what_another_pod_says_against_it_is_worse_than_a_doubt(worse: ModelReport) -> None:
    line = Timeline()
    assert line.see(OLD, [A, B], worse, serves(B, OLD), stale="uid-pod-b")[0] == "False"
    assert line.of("Ready", "message").startswith("pod-a: ")


def test_a_stale_report_that_never_spoke_of_the_model_makes_it_no_more_available() -> None:
    line = Timeline()
    told = line.see(OLD, [A], report(A, {}), stale="uid-pod-a")
    assert told == ("Unknown", "False", "0/1")
