"""The two API kinds: one corpus of documents against the pydantic models, and the generated CRDs.

The same corpus runs against the real API server in tests/integration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from contract_corpus import ACCEPTED, REFUSED, document
from trainedmodel_contract.crd import trainedmodel_crd
from trainedmodel_contract.generate import main, stale
from trainedmodel_contract.modelreport import ModelReport
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
