"""Installation as a user does it: `kubectl apply -k` or helm, with the images' names."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml
from trainedmodel_devkit.binaries import helm_binary
from trainedmodel_devkit.environments import checkout
from trainedmodel_devkit.waiting import wait_until

from e2e.kubectl import Json, Kubectl, Refused
from e2e.providers import Images

SYSTEM = "trainedmodel-system"
OPERATOR = "trainedmodel-operator"
SHIPPED_IMAGE = "trainedmodel-operator"


def install(kubectl: Kubectl, images: Images, folder: Path) -> None:
    """Install from `deploy/`, and wait until the operator is ready."""
    kubectl("apply", "-k", str(write_overlay(folder, images)))
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    wait_for_operator(kubectl)


def wait_for_operator(kubectl: Kubectl) -> None:
    """Wait until all replicas are those that were asked for, and ready."""
    kubectl("-n", SYSTEM, "rollout", "status", f"deployment/{OPERATOR}", "--timeout=110s")


def write_overlay(folder: Path, images: Images) -> Path:
    """Write the overlay of docs/operations.md with the images' names, over a copy of `deploy/`.

    A copy, because kustomize takes no base by an absolute path.
    """
    shutil.copytree(checkout() / "deploy", folder / "deploy")
    name, _, tag = images.operator.rpartition(":")
    settings = {
        "name": f"{OPERATOR}-settings",
        "namespace": SYSTEM,
        "literals": [f"TRAINEDMODEL_OPERATOR_PULLER_IMAGE={images.puller}"],
    }
    overlay: Json = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["deploy"],
        "components": ["deploy/components/settings"],
        "images": [{"name": SHIPPED_IMAGE, "newName": name, "newTag": tag}],
        "configMapGenerator": [settings],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return folder


def helm(kubectl: Kubectl, home: Path, *args: str) -> str:
    """Run helm on the release of the chart, and return its output.

    Raises:
        Refused: it ended with an error.
    """
    environment = {**os.environ, "HOME": str(home)}
    if kubectl.kubeconfig is not None:
        environment["KUBECONFIG"] = str(kubectl.kubeconfig)
    verb, *flags = args
    words = [verb, "trainedmodel", *flags, "--namespace", SYSTEM]
    result = subprocess.run(
        [helm_binary(), *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    if result.returncode != 0:
        raise Refused(f"helm {' '.join(words)}: {result.stderr.strip()}")
    return result.stdout


def chart_with(images: Images) -> list[str]:
    """Return the chart's folder, and the flags that name the images."""
    operator, _, operator_tag = images.operator.rpartition(":")
    puller, _, puller_tag = images.puller.rpartition(":")
    values = {
        "image.repository": operator,
        "image.tag": operator_tag,
        "puller.image.repository": puller,
        "puller.image.tag": puller_tag,
    }
    flags = [f"--set={name}={value}" for name, value in values.items()]
    return [str(checkout() / "deploy" / "chart"), *flags]


@contextlib.contextmanager
def operator_away(kubectl: Kubectl) -> Iterator[None]:
    """Take all replicas of the operator away until the block ends."""
    replicas = kubectl.get("deployment", OPERATOR, "-n", SYSTEM)["spec"]["replicas"]
    _scale(kubectl, 0)
    selector = f"--selector=app.kubernetes.io/name={OPERATOR}"
    try:
        wait_until(
            lambda: not kubectl.list_all("pods", "-n", SYSTEM, selector),
            60,
            what="the operator is gone",
        )
        yield
    finally:
        _scale(kubectl, replicas)
        wait_for_operator(kubectl)


def _scale(kubectl: Kubectl, replicas: int) -> None:
    kubectl("-n", SYSTEM, "scale", f"deployment/{OPERATOR}", f"--replicas={replicas}")
