"""Each kubectl command that we print reaches our kinds, also beside KServe's TrainedModel."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.helm_chart import DEPLOY, ROOT
from support.kserve_kind import TRAINED_MODEL_CRD
from support.operator.on_cluster import Cluster
from trainedmodel_contract import names
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.documents import trained_model
from trainedmodel_devkit.errors import CommandFailed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

FULL = ("trainedmodels.trainedmodel.dev", "modelreports.trainedmodel.dev")
SHORT = ("tmodel", "mreport")
#: What of a cluster with KServe is KServe's.
AMBIGUOUS = re.compile(r"(trainedmodels?|tm)(?:/\S*|\.spec\S*)?")
VERBS = {"get", "describe", "wait", "patch", "delete", "explain", "edit", "label", "annotate"}


def sources() -> Iterator[Path]:
    """Yield what people read: pages, notes, samples, alerts, dashboards; and what programs say."""
    yield from ROOT.glob("*.md")
    yield from (ROOT / "docs").rglob("*.md")
    for pattern in ("*.md", "*.txt", "*.yaml", "*.json"):
        yield from DEPLOY.rglob(pattern)
    for member in ("contract", "operator", "puller", "devkit"):
        yield from (ROOT / member / "src").rglob("*.py")


def commands() -> dict[str, Path]:
    """Return the commands of kubectl in all of them, one line each."""
    found = {}
    for path in sources():
        if path.name == "CHANGELOG.md":  # tells of what was
            continue
        text = re.sub(r"\\\n\s*", " ", path.read_text())
        for match in re.finditer(r"kubectl ((?:-n \S+ )?([a-z]+) [^`\n\"]*)", text):
            if match[2] in VERBS:
                found[match[1].rstrip("',. ")] = path
    return found


def resource(command: str) -> str:
    """Return what a command is about: the first word after the verb that is no flag."""
    words = iter(command.split())
    is_verb_seen = False
    for word in words:
        if word in {"-n", "-o", "-f", "-k", "-l", "-p", "-c"}:
            next(words, "")
        elif word.startswith("-"):
            continue
        elif not is_verb_seen:
            is_verb_seen = True
        else:
            return word
    return ""


def ours() -> dict[str, Path]:
    """Return the commands that are about our kinds."""
    return {
        command: path
        for command, path in commands().items()
        if resource(command).partition("/")[0].removesuffix(".spec") in {*FULL, *SHORT}
    }


def test_no_command_says_a_name_that_is_kserve_s_too() -> None:
    found = commands()
    assert len(found) > 15
    wrong = {
        f"{path.relative_to(ROOT)}: kubectl {command}"
        for command, path in found.items()
        if any(AMBIGUOUS.fullmatch(word) for word in re.split(r"[\s,]+", command))
    }
    assert wrong == set()


def test_the_commands_of_the_pages_are_found() -> None:
    pages = {path.name for path in ours().values()}
    assert {"README.md", "operations.md", "NOTES.txt", "scenario.py"} <= pages


@pytest.fixture(scope="module")
def beside_kserve() -> Iterator[Cluster]:
    """A namespace with a model and a report of ours, and a model of KServe's."""
    with ControlPlane() as running:
        running.kubectl("apply", "-f", "-", input=json.dumps(TRAINED_MODEL_CRD))
        running.install_crds()
        running.kubectl("create", "namespace", "demo")
        cluster = Cluster(running, "demo")
        cluster.run_pod("pod-a")
        theirs = {"apiVersion": "serving.kserve.io/v1alpha1", "kind": "TrainedModel"}
        cluster.apply(trained_model("iris"), {**theirs, "metadata": {"name": "theirs"}, "spec": {}})
        cluster.report("pod-a", {})
        yield cluster


def test_the_plural_reaches_kserve_s_kind(beside_kserve: Cluster) -> None:
    """The reason for all of this."""
    for name in ("trainedmodels", "trainedmodel", "tm"):
        found = beside_kserve.kubectl("get", name, "-o", "name")
        assert found == "trainedmodel.serving.kserve.io/theirs\n"


@pytest.mark.parametrize("command", sorted(ours()))
def test_each_command_reaches_our_kind(beside_kserve: Cluster, command: str) -> None:
    named = resource(command)
    if " explain " in f" {command}":
        said = beside_kserve.kubectl("explain", named)
        assert f"{names.GROUP}\n" in said.partition("KIND")[0]
        return
    found = beside_kserve.kubectl("get", named.partition("/")[0], "-o", "name")
    assert found in {
        "trainedmodel.trainedmodel.dev/iris\n",
        "modelreport.trainedmodel.dev/pod-a\n",
    }


@pytest.mark.parametrize("kind", [*FULL, *SHORT])
def test_a_name_of_ours_means_one_kind(beside_kserve: Cluster, kind: str) -> None:
    said = beside_kserve.kubectl("get", kind, "-o", "json")
    assert {one["apiVersion"] for one in json.loads(said)["items"]} == {names.API_VERSION}
    with pytest.raises(CommandFailed, match="not found"):
        beside_kserve.kubectl("get", kind, "nothing")
