"""helm and kustomize on what ships: rendering, and what of it is the same."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from trainedmodel_devkit.binaries import control_plane_binaries, helm_binary
from trainedmodel_devkit.errors import CommandFailed

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "chart"
SYSTEM = "trainedmodel-system"
#: Values of helm's own bookkeeping, which no manifest of kustomize's has.
HELMS_LABELS = {
    "helm.sh/chart",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
}
HELMS_ANNOTATIONS = {"helm.sh/resource-policy"}

Key = tuple[str, str, str]


class Helm:
    """helm with a home of its own, so that nobody's settings count."""

    def __init__(self, home: Path, kubeconfig: Path | None = None) -> None:
        self._environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
        if kubeconfig is not None:
            self._environment["KUBECONFIG"] = str(kubeconfig)

    def __call__(self, *args: str | Path) -> str:
        """Run helm and return its output.

        Raises:
            CommandFailed: with what helm wrote to standard error.
        """
        result = subprocess.run(
            [helm_binary(), *args],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if result.returncode != 0:
            words = " ".join(str(arg) for arg in args)
            raise CommandFailed(f"helm {words}: {result.stderr.strip()}{result.stdout.strip()}")
        return result.stdout

    def render(self, *flags: str | Path, namespace: str = SYSTEM) -> list[Any]:
        text = self("template", "trainedmodel", CHART, "--namespace", namespace, *flags)
        return [one for one in yaml.safe_load_all(text) if one]

    def refusal(self, *args: str | Path) -> str:
        """Run helm and return how it was refused; nothing if it was not."""
        try:
            self(*args)
        except CommandFailed as error:
            return str(error)
        return ""


def kustomize(folder: Path) -> list[Any]:
    kubectl = control_plane_binaries().kubectl
    text = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    return list(yaml.safe_load_all(text))


def overlay(folder: Path, base: str, *components: str, **more: Any) -> Path:
    """Write an overlay over a part of `deploy/`."""
    folder.mkdir(exist_ok=True)
    content = {
        "resources": [os.path.relpath(DEPLOY / base, folder.resolve())],
        "components": [
            os.path.relpath(DEPLOY / "components" / name, folder.resolve()) for name in components
        ],
        **more,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return folder


def by_key(documents: Iterable[Any]) -> dict[Key, Any]:
    """Return objects by kind, namespace and name, none of them twice."""
    found: dict[Key, Any] = {}
    for one in documents:
        metadata = one["metadata"]
        key = (one["kind"], metadata.get("namespace", ""), metadata["name"])
        assert key not in found, key
        found[key] = one
    return found


def without_helms_own(document: Any) -> Any:
    """Return an object without the labels and annotations that are helm's.

    The generated CRDs have no label at all, so there every label is the chart's.
    """
    metadata = dict(document["metadata"])
    is_crd = document["kind"] == "CustomResourceDefinition"
    labels = metadata.get("labels", {}).keys() if is_crd else HELMS_LABELS
    for field, names in (("labels", labels), ("annotations", HELMS_ANNOTATIONS)):
        kept = {key: value for key, value in metadata.pop(field, {}).items() if key not in names}
        if kept:
            metadata[field] = kept
    return {**document, "metadata": metadata}


def container_of(documents: Iterable[Any]) -> Any:
    """Return the operator's container."""
    [deployment] = [one for one in documents if one["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    return container
