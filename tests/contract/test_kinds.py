"""The two API kinds: one corpus of documents against the pydantic models, and the generated CRDs.

The same corpus runs against the real API server in tests/integration.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.contract_corpus import ACCEPTED, REFUSED, document
from trainedmodel_contract import names
from trainedmodel_contract.crd import modelreport_crd, trainedmodel_crd
from trainedmodel_contract.generate import main, stale
from trainedmodel_contract.modelreport import ModelReport, ReportedModel, heartbeat_period
from trainedmodel_contract.trainedmodel import SpecError, parse_trained_model

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.name)
def test_accepted_documents_are_read(case: Any) -> None:
    model = parse_trained_model(case.document())
    assert model.served_name
    assert len(model.revision()) == 16


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_refused_documents_name_the_field(case: Any) -> None:
    with pytest.raises(SpecError, match=case.field):
        parse_trained_model(case.document())


def test_an_entry_carries_what_the_pod_needs_and_nothing_absent() -> None:
    model = parse_trained_model(document(model={"memory": "1Gi", "version": "", "parameters": {}}))
    entry = model.to_entry(shard=1)
    assert entry.memory == 2**30
    assert entry.shard == 1
    assert entry.revision == model.revision()
    assert "version" not in entry.to_json()
    assert "parameters" not in entry.to_json()


def test_an_object_name_that_cannot_be_served_asks_for_a_served_name() -> None:
    with pytest.raises(SpecError, match=r"spec\.model\.name"):
        parse_trained_model(document(name="a..b"))
    assert parse_trained_model(document(name="a..b", model={"name": "ab"})).served_name == "ab"


def test_memory_credentials_and_parent_change_without_a_reload() -> None:
    plain = parse_trained_model(document())
    other = parse_trained_model(
        document(service="another", model={"memory": "2Gi", "credentials": "team"})
    )
    assert plain.revision() == other.revision()


def test_generated_files_on_disk_are_current(tmp_path: Path) -> None:
    assert stale(ROOT) == [], "run `make generate`"
    assert main(tmp_path, check=True) == 1
    assert main(tmp_path, check=False) == 0
    assert stale(tmp_path) == []


def test_schemas_are_structural() -> None:
    def check(node: Any) -> None:
        if isinstance(node, dict):
            assert not node.keys() & {"$ref", "anyOf", "title", "$defs"}
            for child in node.values():
                check(child)
        elif isinstance(node, list):
            for child in node:
                check(child)

    check(trainedmodel_crd()["spec"]["versions"][0]["schema"])


def test_a_report_knows_whose_it_is() -> None:
    owners = [{"kind": "Pod", "name": "p", "uid": "u1"}]
    report = ModelReport.model_validate(
        {"metadata": {"name": "p", "ownerReferences": owners}, "future": 1}
    )
    assert report.pod_uid == "u1"
    assert ModelReport.model_validate({"metadata": {"name": "p"}}).pod_uid is None
    owners = [{"kind": "ReplicaSet", "name": "r", "uid": "u0"}, *owners]
    with_another = {"metadata": {"name": "p", "ownerReferences": owners}}
    assert ModelReport.model_validate(with_another).pod_uid == "u1"


def test_a_state_that_is_left_out_is_loaded_and_is_left_out_again() -> None:
    brief = ReportedModel.model_validate({"revision": "9f3a"})
    told = ReportedModel(state="Loaded", revision="9f3a")
    assert brief == told
    assert (brief.is_brief, told.is_brief) == (True, False)
    assert brief.to_dict() == {"revision": "9f3a"}
    assert told.to_dict() == {"state": "Loaded", "revision": "9f3a"}
    state = modelreport_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    model = state["properties"]["models"]["additionalProperties"]
    assert "required" not in model
    assert "default" not in model["properties"]["state"], "the API server must not add it back"


def test_a_heartbeat_is_a_time_with_the_promise_of_the_next() -> None:
    when = {names.HEARTBEAT_ANNOTATION: "2026-03-01T12:00:00Z"}
    assert heartbeat_period({**when, names.HEARTBEAT_SECONDS_ANNOTATION: "155"}) == timedelta(
        seconds=155
    )
    for seconds in ("", "0", "-1", "1.5", "soon", "²", "999999"):
        assert heartbeat_period({**when, names.HEARTBEAT_SECONDS_ANNOTATION: seconds}) is None
    assert heartbeat_period({names.HEARTBEAT_SECONDS_ANNOTATION: "60"}) is None
