"""Pods that ask for a puller, and what a JSON patch makes of one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

_PODS = Path(__file__).parents[2] / "operator" / "injection" / "pods"


def accepted() -> dict[str, Any]:
    """Return the pods that get a puller, by the name of their case."""
    return {
        path.stem: yaml.safe_load(path.read_text())
        for path in sorted((_PODS / "accepted").glob("*.yaml"))
    }


def refused() -> dict[str, tuple[Any, str]]:
    """Return the pods that do not, each with words of its refusal."""
    cases = {}
    for path in sorted((_PODS / "refused").glob("*.yaml")):
        expected, pod = yaml.safe_load_all(path.read_text())
        cases[path.stem] = (pod, expected["refusal"])
    return cases


def apply_patch(document: Any, patch: Iterable[Mapping[str, Any]]) -> Any:
    """Return a document with `add` operations carried out, as the API server does."""
    result = copy.deepcopy(document)
    for operation in patch:
        assert operation["op"] == "add"
        *folders, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        target = result
        for part in folders:
            target = target[int(part)] if isinstance(target, list) else target[part]
        value = copy.deepcopy(operation["value"])
        if not isinstance(target, list):
            target[last] = value
        else:
            target.insert(len(target) if last == "-" else int(last), value)
    return result
