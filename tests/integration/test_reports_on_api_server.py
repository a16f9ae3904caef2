"""What reports rely on of a real API server: generations, preconditions, sizes, absent states."""

from __future__ import annotations

import json
from typing import Any

import pytest
from trainedmodel_contract import names
from trainedmodel_contract.modelreport import KIND, ModelReport, ReportedModel
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.errors import CommandFailed

pytestmark = pytest.mark.integration

REVISION = "9f3ac1d20b7e4455"


class Reports:
    """ModelReports of one namespace, through kubectl."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane

    def create(self, name: str, models: dict[str, Any]) -> dict[str, Any]:
        document = {
            "apiVersion": names.API_VERSION,
            "kind": KIND,
            "metadata": {"name": name},
            "inferenceService": "tabular",
            "models": models,
        }
        return self._run("create", "-f", "-", text=json.dumps(document))

    def patch(self, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        return self._run("patch", KIND, name, "--type=merge", "-p", json.dumps(patch))

    def _run(self, *words: str, text: str | None = None) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self._control_plane.kubectl(*words, "-o", "json", input=text)
        )
        return found


@pytest.fixture
def reports(control_plane: ControlPlane) -> Reports:
    return Reports(control_plane)


def heartbeat(second: int, version: str) -> dict[str, Any]:
    annotations = {
        names.HEARTBEAT_ANNOTATION: f"2026-03-01T12:00:{second:02}Z",
        names.HEARTBEAT_SECONDS_ANNOTATION: "60",
    }
    return {"metadata": {"annotations": annotations, "resourceVersion": version}}


def test_a_heartbeat_changes_the_version_and_not_the_generation(reports: Reports) -> None:
    created = reports.create("beating", {"iris": {"state": "Loading"}})["metadata"]
    first = reports.patch("beating", heartbeat(1, created["resourceVersion"]))["metadata"]
    second = reports.patch("beating", heartbeat(2, first["resourceVersion"]))["metadata"]
    assert len({one["resourceVersion"] for one in (created, first, second)}) == 3
    assert {one["generation"] for one in (created, first, second)} == {1}
    news = reports.patch("beating", {"models": {"iris": {"state": "Loaded"}}})["metadata"]
    assert news["generation"] == 2


def test_a_heartbeat_after_somebody_elses_write_is_a_conflict(reports: Reports) -> None:
    created = reports.create("edited", {})["metadata"]
    reports.patch("edited", {"configDigest": "by-hand"})
    with pytest.raises(CommandFailed, match="modified"):
        reports.patch("edited", heartbeat(1, created["resourceVersion"]))


def test_a_state_that_is_left_out_stays_out_and_is_read_as_loaded(reports: Reports) -> None:
    reports.create("brief", {"iris": {"state": "Loaded", "revision": REVISION}})
    stored = reports.patch("brief", {"models": {"iris": {"state": None}}})
    assert stored["models"] == {"iris": {"revision": REVISION}}
    read = ModelReport.model_validate(stored).models["iris"]
    assert (read.state, read.is_brief) == ("Loaded", True)
    assert read == ReportedModel(state="Loaded", revision=REVISION)
