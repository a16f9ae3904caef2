"""Conditions in the status of an object that was read from the Kubernetes API.

A status may have no conditions yet, and a condition of a type may be missing. Both read as an empty
condition, whose fields are all absent.
"""

from collections.abc import Mapping
from typing import Any, Final

_NONE: Final[Mapping[str, Any]] = {}


def find_condition(status: Mapping[str, Any] | None, kind: str) -> Mapping[str, Any]:
    """Return the condition of a type, empty if the status has none."""
    for condition in (status or _NONE).get("conditions") or ():
        if condition.get("type") == kind:
            found: Mapping[str, Any] = condition
            return found
    return _NONE


def is_true(status: Mapping[str, Any] | None, kind: str) -> bool:
    """Return whether the status has the condition of a type, and it is true."""
    return find_condition(status, kind).get("status") == "True"
