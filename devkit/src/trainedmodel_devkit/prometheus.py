"""What Prometheus says of rule files, expressions and series, without a server or a database."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from trainedmodel_devkit.binaries import alerts_binary
from trainedmodel_devkit.errors import CommandFailed


@dataclass(frozen=True)
class Reading:
    """What an expression asks of series.

    Attributes:
        selected: Names of the series, each with the labels that it is selected by.
        grouped: Labels that results are grouped or matched by.
    """

    expression: str
    selected: Mapping[str, Sequence[str]]
    grouped: Sequence[str]


@dataclass(frozen=True)
class Firing:
    """An alert that has come to fire, `at_s` seconds after the first value of the series."""

    alert: str
    at_s: int
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


def read(groups: Sequence[Any] = (), expressions: Sequence[str] = ()) -> list[Reading]:
    """Read the expressions of rules, and others.

    Raises:
        CommandFailed: Prometheus would not take them; with its words.
    """
    said = _ask(rules=yaml.safe_dump({"groups": list(groups)}), expressions=list(expressions))
    return [Reading(**one) for one in said["read"]]


def evaluate(
    groups: Sequence[Any], series: Sequence[str], *, step_s: int = 60, steps: int = 61
) -> list[Firing]:
    """Return the alerts that come to fire over series, the earliest of each set of labels.

    A series is a line such as `up{job="a"} 1x10 0x20`, with a value a step.

    Raises:
        CommandFailed: Prometheus would not take them; with its words.
    """
    rules = yaml.safe_dump({"groups": list(groups)})
    said = _ask(rules=rules, series=list(series), step_s=step_s, steps=steps)
    return [Firing(**one) for one in said["firing"]]


def _ask(**question: Any) -> Any:
    result = subprocess.run(
        [alerts_binary()],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if result.returncode != 0:
        raise CommandFailed(result.stderr.strip())
    return json.loads(result.stdout)
