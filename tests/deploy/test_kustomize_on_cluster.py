"""The kustomize files on a real API server: from the root, over what was there, with settings."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.helm_chart import DEPLOY, ROOT, SYSTEM, by_key, container_of, kustomize, overlay
from trainedmodel_devkit.controlplane import ControlPlane

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane() as running:
        yield running


def items(control_plane: ControlPlane, kind: str) -> list[Any]:
    found: list[Any] = json.loads(control_plane.kubectl("get", kind, "-A", "-o", "json"))["items"]
    return found


def test_the_root_over_parts_that_were_applied_apart_changes_nothing(
    control_plane: ControlPlane,
) -> None:
    control_plane.kubectl("apply", "-f", str(ROOT / "crds"))
    control_plane.kubectl("apply", "-k", str(DEPLOY / "base"))
    lines = control_plane.kubectl("apply", "-k", str(DEPLOY)).splitlines()
    # kubectl replaces a budget's selector each time, whatever it is.
    expected = (" unchanged", "policy/trainedmodel-operator configured")
    assert [line for line in lines if not line.endswith(expected)] == []
    # By the server now: what was written says all that the API server would add, so it conflicts
    # with nothing.
    control_plane.kubectl("apply", "--server-side", "-k", str(DEPLOY))


def test_the_root_brings_everything_and_removal_of_the_base_keeps_the_crds(
    control_plane: ControlPlane,
) -> None:
    control_plane.kubectl("apply", "--server-side", "-k", str(DEPLOY))
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    [deployment] = items(control_plane, "deploy")
    assert deployment["metadata"]["namespace"] == SYSTEM
    control_plane.kubectl("delete", "-k", str(DEPLOY / "base"), "--timeout=60s")
    assert items(control_plane, "deploy") == []
    assert items(control_plane, "mutatingwebhookconfiguration") == []
    assert len(items(control_plane, "crd")) == 2


def test_the_overlay_that_the_page_shows_names_both_images(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    [shown] = re.findall(
        r"^```yaml\n(apiVersion: kustomize.*?)^```", page, re.MULTILINE | re.DOTALL
    )
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    own = tmp_path / "own"
    own.mkdir()
    (own / "kustomization.yaml").write_text(shown)
    documents = kustomize(own)
    assert container_of(documents)["image"] == "registry.example/trainedmodel-operator:0.1.0"
    [settings] = [one["data"] for one in documents if one["kind"] == "ConfigMap"]
    puller = "registry.example/trainedmodel-puller:0.1.0"
    assert settings == {"TRAINEDMODEL_OPERATOR_PULLER_IMAGE": puller}


def test_settings_come_by_a_config_map_whose_change_replaces_the_pods(tmp_path: Path) -> None:
    def rendered(image: str) -> list[Any]:
        setting = f"TRAINEDMODEL_OPERATOR_PULLER_IMAGE={image}"
        name = "trainedmodel-operator-settings"
        generator = {"name": name, "namespace": SYSTEM, "literals": [setting]}
        folder = overlay(tmp_path / "own", ".", "settings", configMapGenerator=[generator])
        return kustomize(folder)

    references = []
    for image in ("registry.example/puller:1", "registry.example/puller:2"):
        documents = rendered(image)
        [source] = container_of(documents)["envFrom"]
        reference = source["configMapRef"]["name"]
        data = by_key(documents)["ConfigMap", SYSTEM, reference]["data"]
        assert data == {"TRAINEDMODEL_OPERATOR_PULLER_IMAGE": image}
        references.append(reference)
    assert references[0] != references[1]
