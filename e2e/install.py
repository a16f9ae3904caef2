"""Installation as a user does it: the CRDs, then `kubectl apply -k` with the images' names."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml
from trainedmodel_devkit.environments import checkout

from e2e.kubectl import Json, Kubectl, wait_until
from e2e.providers import Images

SYSTEM = "trainedmodel-system"
OPERATOR = "trainedmodel-operator"
SHIPPED_IMAGE = "trainedmodel-operator"


def install(kubectl: Kubectl, images: Images, folder: Path) -> None:
    """Install from `deploy/`, and wait until the operator is ready."""
    kubectl("apply", "-f", str(checkout() / "crds"))
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    kubectl("apply", "--server-side", "-k", str(write_overlay(folder, images)))
    kubectl("-n", SYSTEM, "rollout", "status", f"deployment/{OPERATOR}", "--timeout=110s")


def write_overlay(folder: Path, images: Images) -> Path:
    """Write an overlay with the images' names beside a copy of `deploy/`.

    A copy, because kustomize takes no base by an absolute path.
    """
    shutil.copytree(checkout() / "deploy", folder / "deploy")
    base = "deploy" if (folder / "deploy" / "kustomization.yaml").exists() else "deploy/base"
    name, _, tag = images.operator.rpartition(":")
    variable = {"name": "TRAINEDMODEL_OPERATOR_PULLER_IMAGE", "value": images.puller}
    environment = "/spec/template/spec/containers/0/env/-"
    puller = yaml.safe_dump([{"op": "add", "path": environment, "value": variable}])
    overlay: Json = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [base],
        "images": [{"name": SHIPPED_IMAGE, "newName": name, "newTag": tag}],
        "patches": [{"target": {"kind": "Deployment", "name": OPERATOR}, "patch": puller}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return folder


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
        kubectl("-n", SYSTEM, "rollout", "status", f"deployment/{OPERATOR}", "--timeout=110s")


def _scale(kubectl: Kubectl, replicas: int) -> None:
    kubectl("-n", SYSTEM, "scale", f"deployment/{OPERATOR}", f"--replicas={replicas}")
