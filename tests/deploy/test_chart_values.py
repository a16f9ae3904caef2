"""The chart's values: each is described, typed and does something; nothing else is taken."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.helm_chart import CHART, Helm, by_key, container_of
from support.webhook.injection_corpus import accepted
from trainedmodel_contract import names
from trainedmodel_operator.__main__ import main
from trainedmodel_operator.core.injection.inject import inject
from trainedmodel_operator.core.injection.sidecar import InjectionSettings
from trainedmodel_operator.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))


def named(schema: Any = SCHEMA, before: str = "") -> Iterator[str]:
    """Yield the paths of the values that the schema knows; what is free inside is one value."""
    for name, inner in schema["properties"].items():
        if name == "global":  # helm's own
            continue
        if inner.get("properties") and not is_whole(f"{before}{name}"):
            yield from named(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def rows() -> dict[str, str]:
    """Return what the README's table says about each value's default."""
    lines = (CHART / "README.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line[:3] == "| `"]
    return {cell[1].strip("`"): cell[2] for cell in cells}


def is_whole(path: str) -> bool:
    """Tell whether a value is given as a whole, so that its parts have no rows of their own."""
    return path == "resources" or path.endswith(
        (".requests", ".limits", ".namespaceSelector", ".issuerRef")
    )


def value_at(path: str) -> Any:
    found: Any = VALUES
    for name in path.split("."):
        found = found[name]
    return found


def test_each_value_has_a_default_a_type_and_a_row() -> None:
    described = rows()
    assert list(described) == list(named())
    for path, said in described.items():
        default = value_at(path)
        if said.startswith("`"):
            assert yaml.safe_load(said.strip("`")) == default, path
        elif not said:
            assert default == "", path


def test_there_are_no_values_beside_those() -> None:
    def paths(values: Any, before: str = "") -> Iterator[str]:
        for name, inner in values.items():
            path = f"{before}{name}"
            yield path
            if isinstance(inner, dict) and path not in known:
                yield from paths(inner, f"{path}.")

    known = set(named())
    folders = {path.rsplit(".", depth)[0] for path in known for depth in range(1, 4)}
    assert set(paths(VALUES)) - known - folders == set()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("replicaCount=3", "additional properties 'replicaCount' not allowed"),
        ("image.version=1", "additional properties 'version' not allowed"),
        ("replicas=two", "'/replicas': got string, want integer"),
        ("replicas=-1", "'/replicas': minimum: got -1, want 0"),
        ("webhook.enabled=maybe", "'/webhook/enabled': got string, want boolean"),
        ("webhook.failurePolicy=Retry", "must be one of 'Fail', 'Ignore'"),
        ("webhook.certificates.by=me", "must be one of 'operator', 'cert-manager'"),
        ("webhook.certificates.certManager.issuerRef.kind=Issuer", "'name' required"),
        ("watch.namespaces=team-a", "'/watch/namespaces': got string, want array"),
        ("watch.namespaces={Team_A}", "'/watch/namespaces/0': 'Team_A' does not match pattern"),
        ("log.level=loud", "'/log/level': value must be one of"),
        ("image.repository=operator:1.0", "'/image/repository': 'operator:1.0' does not match"),
        ("puller.image.digest=latest", "'/puller/image/digest': 'latest' does not match"),
        ("puller.resources.requests.memory=lots", "'/puller/resources/requests/memory'"),
        ("puller.qos=best", "must be one of '', 'burstable', 'guaranteed'"),
        ("puller.runAsUser=0", "'/puller/runAsUser'"),
        ("puller.runAsUser=root", "'/puller/runAsUser'"),
        ("puller.resources.limits.gpu=1", "additional properties 'gpu' not allowed"),
        ("podAnnotations.checked=true", "'/podAnnotations/checked': got boolean, want string"),
        ("serviceAccount.name=a.b", "'/serviceAccount/name': 'a.b' does not match"),
        ("policies.otherPodChanges=Warn", "must be one of 'Audit', 'Deny'"),
        ("ports.webhook=0", "'/ports/webhook': minimum: got 0, want 1"),
        ("hostNetwork=1", "'/hostNetwork': got number, want boolean"),
        ("dnsPolicy=Cluster", "'/dnsPolicy': value must be one of"),
        ("podDisruptionBudget.minAvailable=half", "'half' does not match pattern"),
        ("networkPolicy.apiServerPorts={}", "apiServerPorts/0': got string, want integer"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(helm: Helm, value: str, words: str) -> None:
    assert words in helm.refusal("template", "trainedmodel", CHART, "--set", value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("puller.resources.requests.memory=2Gi", "puller.resources.limits.memory=1Gi"),
        ("puller.resources.requests.memory=1025M", "puller.resources.limits.memory=0.9Gi"),
        ("puller.resources.requests.cpu=2", "puller.resources.limits.cpu=1500m"),
        (
            "webhook.certificates.certManager.renewBefore=2160h",
            "webhook.certificates.certManager.duration=2160h",
        ),
        (
            "webhook.certificates.certManager.renewBefore=1h30m1s",
            "webhook.certificates.certManager.duration=90m",
        ),
    ],
)
def test_two_values_that_cannot_both_hold_are_refused_with_both(
    helm: Helm, one: str, other: str
) -> None:
    flags = ("--set", f"{one},{other},webhook.certificates.by=cert-manager")
    refusal = helm.refusal("template", "trainedmodel", CHART, *flags)
    assert one in refusal
    assert other in refusal


def test_values_that_agree_are_taken(helm: Helm) -> None:
    helm.render(
        *("--set", "puller.resources.requests.memory=1Gi,puller.resources.limits.memory=1024Mi"),
        *("--set", "puller.resources.requests.cpu=900m,puller.resources.limits.cpu=1"),
        *("--set", "webhook.certificates.by=cert-manager"),
        *("--set", "webhook.certificates.certManager.duration=1h30m1s"),
        *("--set", "webhook.certificates.certManager.renewBefore=90m"),
    )


def test_a_large_user_reaches_the_operator_as_it_was_written(helm: Helm, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("puller: {runAsUser: 1000680000, qos: guaranteed}")
    container = container_of(helm.render("-f", tmp_path / "values.yaml"))
    said = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    assert said["TRAINEDMODEL_OPERATOR_PULLER_RUN_AS_USER"] == "1000680000"
    assert said["TRAINEDMODEL_OPERATOR_PULLER_QOS"] == "guaranteed"


def test_the_chart_and_its_examples_pass_helm_s_own_check(helm: Helm) -> None:
    helm("lint", "--strict", CHART)
    for example in EXAMPLES:
        helm("lint", "--strict", CHART, "-f", example)


def test_a_cluster_that_is_too_old_is_refused(helm: Helm) -> None:
    refused = helm.refusal("template", "x", CHART, "--kube-version", "1.30.4")
    assert "requires kubeVersion: >=1.31" in refused
    helm("template", "x", CHART, "--kube-version", "1.31.0-gke.100")


def test_defaults_that_the_operator_has_too_are_the_operator_s() -> None:
    operator, puller = Settings(), InjectionSettings(image="")
    assert VALUES["log"] == {"format": operator.log_format, "level": operator.log_level}
    assert VALUES["puller"]["image"]["pullPolicy"] == puller.pull_policy
    assert VALUES["puller"]["runAsUser"] == puller.run_as_user


def test_what_is_said_reaches_the_operator(helm: Helm) -> None:
    container = container_of(helm.render("-f", CHART / "examples" / "production.yaml"))
    assert container["image"] == "registry.example:5000/platform/trainedmodel-operator:0.1.0"
    said = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    puller = "registry.example:5000/platform/trainedmodel-puller@sha256:"
    assert said.pop("TRAINEDMODEL_OPERATOR_PULLER_IMAGE").startswith(puller)
    assert said == {
        "TRAINEDMODEL_OPERATOR_PULLER_CPU_REQUEST": "100m",
        "TRAINEDMODEL_OPERATOR_PULLER_MEMORY_REQUEST": "192Mi",
        "TRAINEDMODEL_OPERATOR_PULLER_MEMORY_LIMIT": "1Gi",
    }


def test_every_variable_of_the_chart_is_one_that_the_operator_reads(helm: Helm) -> None:
    read = {
        str(name)
        for option in main.params
        for name in [option.envvar or f"TRAINEDMODEL_OPERATOR_{(option.name or '').upper()}"]
    }
    text = "\n".join(path.read_text() for path in (CHART / "templates").iterdir())
    named_in_full = set(re.findall(r"name: (TRAINEDMODEL_OPERATOR_[A-Z_]+)$", text, re.MULTILINE))
    of_pullers = {
        f"TRAINEDMODEL_OPERATOR_PULLER_{resource}_{bound}"
        for resource in ("CPU", "MEMORY")
        for bound in ("REQUEST", "LIMIT")
    }
    assert "TRAINEDMODEL_OPERATOR_WEBHOOK_CERTIFICATES" in named_in_full
    assert named_in_full | of_pullers <= read


def test_several_namespaces_have_a_role_in_each_and_none_in_the_cluster(helm: Helm) -> None:
    documents = helm.render("--set", "watch.namespaces={team-a,team-b}", "--set", "replicas=1")
    found = by_key(documents)
    for namespace in ("team-a", "team-b"):
        assert ("Role", namespace, "trainedmodel-operator") in found
        [subject] = found["RoleBinding", namespace, "trainedmodel-report-writer"]["subjects"]
        assert subject["name"] == f"system:serviceaccounts:{namespace}"
    of_cluster = {name for kind, _, name in found if kind == "ClusterRole"}
    people = {"trainedmodel-view", "trainedmodel-edit"}
    assert of_cluster - people == {"trainedmodel-webhook"}, "the right to write its own caBundle"
    [hook] = found["MutatingWebhookConfiguration", "", "trainedmodel-webhook"]["webhooks"]
    [only] = hook["namespaceSelector"]["matchExpressions"]
    assert only["values"] == ["team-a", "team-b"]


def test_another_account_is_fenced_by_the_policy_too(helm: Helm) -> None:
    text = helm("template", "x", CHART, "--set", "serviceAccount.name=robot")
    assert "^system:serviceaccount:[^:]+:robot$" in text
    assert "name: trainedmodel-operator\n    namespace: default" not in text


def deployment_of(helm: Helm, *flags: str) -> Any:
    found = by_key(helm.render(*(word for flag in flags for word in ("--set", flag))))
    return found["Deployment", "trainedmodel-system", "trainedmodel-operator"]["spec"]


def test_on_the_node_s_network_it_has_ports_names_and_updates_that_fit_there(helm: Helm) -> None:
    spec = deployment_of(helm, "hostNetwork=true", "ports.metrics=19190", "ports.webhook=19443")
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert {"--metrics-port=19190", "--webhook-port=19443"} <= set(container["args"])
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"metrics": 19190, "health": 8080, "webhook": 19443}
    # The nodes may all be taken by the replicas that are to be replaced.
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    own = deployment_of(helm, "hostNetwork=true", "dnsPolicy=Default")
    assert own["template"]["spec"]["dnsPolicy"] == "Default"
    assert not {"hostNetwork", "dnsPolicy"} & deployment_of(helm)["template"]["spec"].keys()


@pytest.mark.parametrize("certificates", ["operator", "cert-manager"])
def test_volumes_of_yours_come_beside_the_certificate_s(helm: Helm, certificates: str) -> None:
    spec = deployment_of(
        helm,
        f"webhook.certificates.by={certificates}",
        "extraVolumes[0].name=ca,extraVolumes[0].configMap.name=ca",
        "extraVolumeMounts[0].name=ca,extraVolumeMounts[0].mountPath=/ca",
        "terminationGracePeriodSeconds=60",
    )
    pod = spec["template"]["spec"]
    named = {one["name"] for one in pod["volumes"]}
    assert named == {one["name"] for one in pod["containers"][0]["volumeMounts"]}
    assert named - {"webhook-certificate"} == {"ca"}
    assert ("webhook-certificate" in named) == (certificates == "cert-manager")
    assert pod["terminationGracePeriodSeconds"] == 60


@pytest.mark.parametrize("value", ["1", "0", "50%"])
def test_a_disruption_budget_says_one_of_two_things(helm: Helm, value: str) -> None:
    documents = helm.render("--set", f"podDisruptionBudget.minAvailable={value}")
    [budget] = [one["spec"] for one in documents if one["kind"] == "PodDisruptionBudget"]
    assert str(budget["minAvailable"]) == value
    assert "maxUnavailable" not in budget


def test_the_pullers_of_the_served_namespaces_are_scraped_and_no_others(helm: Helm) -> None:
    def selector(*flags: str) -> Any:
        documents = helm.render("--set", "podMonitor.enabled=true", *flags)
        [monitor] = [one for one in documents if one["kind"] == "PodMonitor"]
        return monitor["spec"]["namespaceSelector"]

    assert selector() == {"any": True}
    assert selector("--set", "watch.namespaces={a,b}") == {"matchNames": ["a", "b"]}


def test_what_is_scraped_is_what_the_webhook_injects(helm: Helm) -> None:
    """Every pod that is let in, of KServe's forms and others."""
    documents = helm.render("--set", "podMonitor.enabled=true")
    [monitor] = [one["spec"] for one in documents if one["kind"] == "PodMonitor"]
    [endpoint] = monitor["podMetricsEndpoints"]
    pods = accepted()
    assert len(pods) > 10
    for name, pod in pods.items():
        patch = inject(pod, InjectionSettings(image="x")).patch
        [puller] = [one for one in objects_of(patch) if one.get("name") == names.PULLER_CONTAINER]
        ports = [one["name"] for one in puller["ports"]]
        assert ports.count(endpoint["port"]) == 1, name
        labels = pod["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items(), name


def objects_of(value: Any) -> Iterator[Any]:
    """Yield every object in a JSON patch."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from objects_of(inner)


def test_selectors_never_change(helm: Helm) -> None:
    plain, said = (
        by_key(helm.render(*flags))["Deployment", "trainedmodel-system", "trainedmodel-operator"]
        for flags in (
            (),
            ("--set", "commonLabels.team=a", "--set", "podLabels.app\\.kubernetes\\.io/name=b"),
        )
    )
    assert said["metadata"]["labels"]["team"] == "a"
    assert said["spec"]["selector"] == plain["spec"]["selector"]
    labels = said["spec"]["template"]["metadata"]["labels"]
    assert labels == {**plain["spec"]["template"]["metadata"]["labels"], "team": "a"}


def test_a_chart_without_its_crds_says_so(helm: Helm, tmp_path: Path) -> None:
    broken = shutil.copytree(CHART, tmp_path / "chart")
    shutil.rmtree(broken / "files" / "crds")
    assert "holds no CRDs" in helm.refusal("template", "x", broken)
    helm("template", "x", broken, "--set", "crds.install=false")


def test_a_packaged_chart_renders_the_same(helm: Helm, tmp_path: Path) -> None:
    helm("package", CHART, "--destination", tmp_path)
    [package] = tmp_path.glob("*.tgz")
    flags = ("-n", "trainedmodel-system", "-f", CHART / "examples" / "production.yaml")
    assert helm("template", "x", package, *flags) == helm("template", "x", CHART, *flags)
