"""The real API server accepts and refuses what the pydantic models do, and names the same field."""

from __future__ import annotations

import json

import pytest
from contract_corpus import ACCEPTED, REFUSED, Case
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.errors import CommandFailed

pytestmark = pytest.mark.integration


def create(control_plane: ControlPlane, case: Case) -> str:
    text = json.dumps(case.document())
    return control_plane.kubectl("create", "--dry-run=server", "-f", "-", input=text)


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.name)
def test_the_api_server_accepts(control_plane: ControlPlane, case: Case) -> None:
    assert "created" in create(control_plane, case)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_the_api_server_refuses_and_names_the_field(
    control_plane: ControlPlane, case: Case
) -> None:
    with pytest.raises(CommandFailed, match=case.field):
        create(control_plane, case)
