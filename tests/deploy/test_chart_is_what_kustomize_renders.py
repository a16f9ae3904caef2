"""Chart and kustomize files are two forms of the same objects, and cannot drift apart."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.helm_chart import (
    CHART,
    DEPLOY,
    ROOT,
    Helm,
    by_key,
    container_of,
    kustomize,
    overlay,
    without_helms_own,
)
from trainedmodel_operator.settings import PULLER_IMAGE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

NAMESPACED = CHART / "examples" / "namespaced.yaml"


def same(chart: list[Any], rendered: list[Any]) -> None:
    """Compare object by object; a Namespace is helm's own affair (`--create-namespace`)."""
    for documents in (chart, rendered):  # no variable refers to another, so order means nothing
        container_of(documents)["env"].sort(key=itemgetter("name"))
    of_chart = by_key(without_helms_own(one) for one in chart)
    of_kustomize = by_key(one for one in rendered if one["kind"] != "Namespace")
    assert of_chart.keys() == of_kustomize.keys()
    for key, document in of_chart.items():
        assert document == of_kustomize[key], key


def take_variable(documents: list[Any], name: str) -> str:
    """Take a variable out of the operator's container and return its value."""
    container = container_of(documents)
    [taken] = [one for one in container["env"] if one["name"] == name]
    container["env"].remove(taken)
    return str(taken["value"])


def test_by_default_it_is_the_whole_of_deploy(helm: Helm) -> None:
    chart = helm.render()
    # The chart says what the operator does by itself.
    assert take_variable(chart, "TRAINEDMODEL_OPERATOR_PULLER_IMAGE") == PULLER_IMAGE
    same(chart, kustomize(DEPLOY))


def test_without_crds_it_is_the_base(helm: Helm) -> None:
    chart = helm.render("--set", "crds.install=false")
    take_variable(chart, "TRAINEDMODEL_OPERATOR_PULLER_IMAGE")
    same(chart, kustomize(DEPLOY / "base"))


def test_in_one_namespace_it_is_the_overlay(helm: Helm) -> None:
    flags = ("-f", NAMESPACED, "--set", "policies.install=true")
    chart = helm.render(*flags, namespace="trainedmodel-demo")
    rendered = kustomize(DEPLOY / "overlays" / "namespaced")
    # The overlay has one word to change; the chart may name several namespaces.
    variable = "TRAINEDMODEL_OPERATOR_NAMESPACE"
    assert take_variable(chart, variable) == "trainedmodel-demo"
    [own] = [one for one in container_of(rendered)["env"] if one["name"] == variable]
    assert own["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.namespace"
    container_of(rendered)["env"].remove(own)
    same(chart, rendered)


@pytest.mark.parametrize(
    ("component", "flags"),
    [
        ("network-policy", ["networkPolicy.enabled=true"]),
        ("service-monitor", ["serviceMonitor.enabled=true"]),
        ("pod-monitor", ["podMonitor.enabled=true"]),
        ("cert-manager", ["webhook.certificates.by=cert-manager"]),
    ],
)
def test_each_component_is_a_switch(
    helm: Helm, tmp_path: Path, component: str, flags: list[str]
) -> None:
    chart = helm.render(*(word for flag in flags for word in ("--set", flag)))
    take_variable(chart, "TRAINEDMODEL_OPERATOR_PULLER_IMAGE")
    same(chart, kustomize(overlay(tmp_path / "overlay", ".", component)))


def test_its_alerts_are_those_that_ship(helm: Helm) -> None:
    def rules(documents: list[Any]) -> dict[str, Any]:
        return {
            one["metadata"]["name"]: one["spec"]
            for one in documents
            if one["kind"] == "PrometheusRule"
        }

    chart = helm.render("--set", "prometheusRule.enabled=true")
    shipped = [yaml.safe_load(path.read_text()) for path in DEPLOY.glob("alerts/*.yaml")]
    assert rules(chart) == rules(shipped) != {}


def test_its_alerts_are_about_the_release_s_own_namespace(helm: Helm) -> None:
    text = yaml.safe_dump(helm.render("--set", "prometheusRule.enabled=true", namespace="team-a"))
    assert 'absent(trainedmodel_operator_leader{namespace="team-a"})' in text
    assert "trainedmodel-system" not in text


def test_its_dashboards_are_those_that_ship(helm: Helm) -> None:
    chart = helm.render("--set", "dashboards.enabled=true")
    texts = [
        text.strip()
        for one in chart
        if one["metadata"]["name"].startswith("trainedmodel-dashboard-")
        for text in one["data"].values()
    ]
    shipped = [path.read_text().strip() for path in DEPLOY.glob("dashboards/*.json")]
    assert sorted(texts) == sorted(shipped) != []


@pytest.mark.parametrize(
    ("copies", "source"),
    [("crds", "crds"), ("alerts", "deploy/alerts"), ("dashboards", "deploy/dashboards")],
)
def test_it_holds_a_copy_of_each_file_and_no_other(copies: str, source: str) -> None:
    def files(folder: Path) -> dict[str, str]:
        return {path.name: path.read_text() for path in folder.iterdir()}

    assert files(CHART / "files" / copies) == files(ROOT / source), "run `make generate`"
