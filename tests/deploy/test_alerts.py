"""Alerts and dashboards by Prometheus' own reader and engine: they can be read, ask for what is
exported, fire when they should and are silent else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from trainedmodel_devkit.errors import CommandFailed
from trainedmodel_devkit.prometheus import Reading, evaluate, read
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_puller import metrics as puller_metrics

pytestmark = pytest.mark.integration

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
OPERATIONS = (DEPLOY.parent / "docs" / "operations.md").read_text()
PARTS = ["operator", "puller"]
#: What Prometheus adds to each series it scrapes from a pod.
TARGET = {"namespace", "pod", "job", "instance", "container", "service"}
OF, OP = "trainedmodel_puller_", "trainedmodel_operator_"
POD = 'namespace="shop",pod="p"'
RELEASE = 'namespace="trainedmodel-system"'
#: For each alert what it fires at, from the second it is to fire at, and what leaves it silent.
CASES: dict[str, tuple[list[str], int, list[str]]] = {
    "TrainedModelOperatorWithoutLeader": (
        [f'{OP}leader{{{RELEASE},pod="a"}} 0x60'],
        5 * 60,
        [
            f'{OP}leader{{{RELEASE},pod="a"}} 1x9 0x50',
            f'{OP}leader{{{RELEASE},pod="b"}} 0x12 1x47',
        ],
    ),
    "TrainedModelPassesFailing": (
        [
            f'{OP}reconcile_seconds_count{{result="error"}} 0+60x60',
            f'{OP}reconcile_seconds_count{{result="success"}} 0+30x60',
        ],
        11 * 60,
        [
            f'{OP}reconcile_seconds_count{{result="error"}} 0+20x60',
            f'{OP}reconcile_seconds_count{{result="success"}} 0+30x60',
        ],
    ),
    "TrainedModelApiRefuses": (
        [f'{OP}api_errors_total{{level="shard",cause="refused"}} 0+1x60'],
        16 * 60,
        [
            f'{OP}api_errors_total{{level="shard",cause="refused"}} 7x60',
            f'{OP}api_errors_total{{level="shard",cause="throttled"}} 0+9x60',
        ],
    ),
    "TrainedModelShardsRefused": (
        [f'{OP}writes_put_off{{namespace="shop",kind="shard"}} 1x60'],
        10 * 60,
        [
            f'{OP}writes_put_off{{namespace="shop",kind="shard"}} 1x3 _x56',
            f'{OP}writes_put_off{{namespace="shop",kind="nudge"}} 1x60',
        ],
    ),
    "TrainedModelNamespaceUnreadable": (
        [f'{OP}namespace_readable{{namespace="shop"}} 0x60'],
        10 * 60,
        [f'{OP}namespace_readable{{namespace="shop"}} 0x9 1x50'],
    ),
    "TrainedModelChangesLate": (
        [
            f'{OP}seen_seconds_bucket{{le="10.0"}} 0+9x60',
            f'{OP}seen_seconds_bucket{{le="30.0"}} 0+10x60',
            f'{OP}seen_seconds_bucket{{le="+Inf"}} 0+10x60',
        ],
        11 * 60,
        [
            f'{OP}seen_seconds_bucket{{le="10.0"}} 0+99x60',
            f'{OP}seen_seconds_bucket{{le="30.0"}} 0+100x60',
            f'{OP}seen_seconds_bucket{{le="+Inf"}} 0+100x60',
        ],
    ),
    "TrainedModelPodsBehind": ([f"{OP}pods_behind 3x60"], 10 * 60, [f"{OP}pods_behind 3x9 0x50"]),
    "TrainedModelQueueGrows": (
        [f'{OP}queue_depth{{queue="statuses"}} 5000x60'],
        15 * 60,
        [f'{OP}queue_depth{{queue="events"}} 5000x60'],
    ),
    "TrainedModelsNotServed": (
        [f'{OP}models{{namespace="shop",state="Failed"}} 2x60'],
        30 * 60,
        [f'{OP}models{{namespace="shop",state="Loaded"}} 2x60'],
    ),
    "TrainedModelPullersNotScraped": (
        [
            f'{OP}models{{namespace="shop",state="Loaded"}} 2x60',
            f'{OF}build_info{{namespace="other",pod="p",version="1"}} 1x60',
        ],
        15 * 60,
        [
            f'{OP}models{{namespace="shop",state="Loaded"}} 2x60',
            f'{OP}models{{namespace="empty",state="Pending"}} 2x60',
            f'{OF}build_info{{{POD},version="1"}} 1x60',
        ],
    ),
    "TrainedModelsFailing": (
        [f'{OF}models{{{POD},state="Blocked"}} 1x60'],
        15 * 60,
        [f'{OF}models{{{POD},state="Waiting"}} 1x60'],
    ),
    "TrainedModelServerUnreachable": (
        [f"{OF}server_reachable{{{POD}}} 0x60"],
        5 * 60,
        [f"{OF}server_reachable{{{POD}}} 0x4 1x55"],
    ),
    "TrainedModelServerRestarting": (
        [f"{OF}server_restarts_total{{{POD}}} 0x9 1x9 2x9 3x9 4x20"],
        31 * 60,
        [f"{OF}server_restarts_total{{{POD}}} 0x20 1x20 2x20"],
    ),
    "TrainedModelConfigInDoubt": (
        [f"{OF}config_in_doubt{{{POD}}} 1x60"],
        5 * 60,
        [f"{OF}config_in_doubt{{{POD}}} 1x3 0x56"],
    ),
    "TrainedModelVolumeNearlyFull": (
        [
            f"{OF}volume_free_bytes{{{POD}}} 5x60",
            f"{OF}served_bytes{{{POD}}} 90x60",
            f"{OF}kept_bytes{{{POD}}} 5x60",
        ],
        15 * 60,
        [
            f"{OF}volume_free_bytes{{{POD}}} 20x60",
            f"{OF}served_bytes{{{POD}}} 80x60",
            f"{OF}kept_bytes{{{POD}}} 0x60",
        ],
    ),
    "TrainedModelReportsNotWritten": (
        [
            f'{OF}report_writes_total{{{POD},outcome="failed"}} 0+1x60',
            f'{OF}report_writes_total{{{POD},outcome="written"}} 5x60',
        ],
        9 * 60,
        [
            f'{OF}report_writes_total{{{POD},outcome="failed"}} 0+1x60',
            f'{OF}report_writes_total{{{POD},outcome="written"}} 0+1x60',
        ],
    ),
    "TrainedModelReportLeavesModelsOut": (
        [f"{OF}report_left_out_models{{{POD}}} 4x60"],
        15 * 60,
        [f"{OF}report_left_out_models{{{POD}}} 0x60"],
    ),
    "TrainedModelPullerStuck": (
        [f"{OF}last_pass_timestamp_seconds{{{POD}}} 0x60"],
        4 * 60,
        [f"{OF}last_pass_timestamp_seconds{{{POD}}} 0+60x60"],
    ),
}


def groups(part: str) -> list[Any]:
    rules = yaml.safe_load((DEPLOY / "alerts" / f"{part}.yaml").read_text())
    assert (rules["apiVersion"], rules["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert rules["spec"].keys() == {"groups"}
    return list(rules["spec"]["groups"])


ALERTS = {
    rule["alert"]: rule for part in PARTS for group in groups(part) for rule in group["rules"]
}


def dashboard(part: str) -> Any:
    return json.loads((DEPLOY / "dashboards" / f"{part}.json").read_text())


def exported(part: str) -> dict[str, set[str]]:
    """Return the series that a part exports, with the labels it gives them."""
    registry: CollectorRegistry = (
        Metrics().registry if part == "operator" else puller_metrics.REGISTRY
    )
    return {
        name: {
            *getattr(collector, "_labelnames", ()),
            *(["le"] if name.endswith("_bucket") else []),
        }
        for name, collector in registry._names_to_collectors.items()
    }


def test_a_rule_that_prometheus_would_not_take_is_refused() -> None:
    for harm in ({"expr": "sum by ("}, {"unknown": 1}, {"annotations": {"summary": "{{ $x }}"}}):
        rule = {"alert": "A", "expr": "up == 0", **harm}
        with pytest.raises(CommandFailed):
            read([{"name": "g", "rules": [rule]}])


@pytest.mark.parametrize("part", PARTS)
def test_alerts_ask_for_what_is_exported(part: str) -> None:
    found = read(groups(part))
    assert len(found) >= 5
    for one in found:  # one of the puller's asks the operator whether there are pullers
        check(one, exported("operator") | exported("puller"))


@pytest.mark.parametrize("part", PARTS)
def test_panels_ask_for_what_is_exported(part: str) -> None:
    board = dashboard(part)
    texts = [one["expr"] for panel in board["panels"] for one in panel.get("targets", ())]
    variables = {one["name"] for one in board["templating"]["list"]}
    used = {name for text in texts for name in re.findall(r"\$(\w+)", text)}
    assert used - variables <= {"__rate_interval"}
    expressions = [
        re.sub(r"\$(\w+)", "x", text.replace("$__rate_interval", "5m")) for text in texts
    ]
    found = read(expressions=expressions)
    assert len(found) == len(texts) > 10
    for one in found:
        check(one, exported(part))
    shown = {name.removesuffix("_bucket") for one in found for name in one.selected}
    for panel in board["panels"]:
        assert panel["type"] == "row" or panel["targets"][0]["expr"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert len(shown) > 10


def check(one: Reading, series: dict[str, set[str]]) -> None:
    known = set(TARGET)
    for name, labels in one.selected.items():
        assert name in series, one.expression
        assert set(labels) <= series[name] | TARGET, one.expression
        known |= series[name]
    assert set(one.grouped) <= known, one.expression


def test_each_alert_has_a_case() -> None:
    assert CASES.keys() == ALERTS.keys()


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_should_and_is_silent_else(alert: str) -> None:
    firing, from_s, silent = CASES[alert]
    rules = [{"name": alert, "rules": [ALERTS[alert]]}]
    [fired] = evaluate(rules, firing)
    assert fired.at_s == from_s
    words = " ".join(fired.annotations.values())
    assert "no value" not in words
    assert "{{" not in words
    assert evaluate(rules, silent) == []


def test_an_operator_that_nobody_scrapes_is_alerted_of() -> None:
    alert = ALERTS["TrainedModelOperatorWithoutLeader"]
    [fired] = evaluate([{"name": "g", "rules": [alert]}], [])
    assert fired.at_s == 5 * 60


def test_a_release_without_a_leader_is_alerted_of_whoever_leads_in_another() -> None:
    alert = ALERTS["TrainedModelOperatorWithoutLeader"]
    leads, does_not = f"{OP}leader{{{RELEASE}}} 1x60", f'{OP}leader{{namespace="team-a"}} 0x60'
    [fired] = evaluate([{"name": "g", "rules": [alert]}], [leads, does_not])
    assert fired.at_s == 5 * 60
    assert "team-a" in fired.annotations["summary"]


def test_a_release_that_nobody_scrapes_is_alerted_of_whoever_leads_in_another() -> None:
    alert = ALERTS["TrainedModelOperatorWithoutLeader"]
    [fired] = evaluate(
        [{"name": "g", "rules": [alert]}], [f'{OP}leader{{namespace="team-a"}} 1x60']
    )
    assert "trainedmodel-system" in fired.annotations["summary"]


def in_namespace(namespace: str, series: list[str]) -> list[str]:
    """Return series as they are scraped from a release in another namespace."""
    bare = [one.replace(f"{RELEASE},", "") for one in series]
    parts = [re.fullmatch(r"(\w+)(?:{(.*)})? (.*)", one) for one in bare]
    return [
        f'{one[1]}{{namespace="{namespace}"{"," + one[2] if one[2] else ""}}} {one[3]}'
        for one in parts
        if one
    ]


@pytest.mark.parametrize(
    "alert",
    [
        name
        for name, rule in ALERTS.items()
        if OP in rule["expr"] and 'namespace="shop"' not in CASES[name][0][0]
    ],
)
def test_what_is_wrong_with_one_release_is_not_made_up_for_by_others(alert: str) -> None:
    firing, from_s, silent = CASES[alert]
    well = [one for n in range(9) for one in in_namespace(f"well-{n}", silent)]
    series = [*in_namespace("trainedmodel-system", firing), *well]
    fired = evaluate([{"name": alert, "rules": [ALERTS[alert]]}], series)
    assert [one.at_s for one in fired] == [from_s]


def test_each_alert_says_what_to_do_and_has_its_section() -> None:
    section = r"^### `(TrainedModel\w+)`\n\n(?:.+\n)+\nRemedy: \S"
    assert sorted(re.findall(section, OPERATIONS, re.MULTILINE)) == sorted(ALERTS)
    for rule in ALERTS.values():
        assert rule["for"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}
