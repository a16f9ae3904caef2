"""A condition is found in what the API gives, and a missing one reads as empty."""

from __future__ import annotations

from typing import Any

import pytest
from trainedmodel_contract.conditions import find_condition, is_true

READY = {"type": "Ready", "status": "True", "reason": "Settled"}
STATUS = {"conditions": [{"type": "Accepted", "status": "False"}, READY]}


def test_a_condition_is_found_by_its_type() -> None:
    assert find_condition(STATUS, "Ready") == READY
    assert is_true(STATUS, "Ready")
    assert not is_true(STATUS, "Accepted")


@pytest.mark.parametrize("status", [None, {}, {"conditions": None}, {"conditions": []}, STATUS])
def test_a_condition_that_is_not_there_is_empty_and_not_true(status: Any) -> None:
    assert find_condition(status, "Available") == {}
    assert not is_true(status, "Available")
