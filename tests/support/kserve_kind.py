"""KServe's kinds, as little of them as we meet: for tests without KServe."""

from __future__ import annotations

import json
from typing import Any

from support.operator.on_cluster import Cluster
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.errors import CommandFailed
from trainedmodel_devkit.waiting import wait_until

_ANYTHING: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}

CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "inferenceservices.serving.kserve.io"},
    "spec": {
        "group": "serving.kserve.io",
        "names": {
            "kind": "InferenceService",
            "plural": "inferenceservices",
            "singular": "inferenceservice",
        },
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {"spec": _ANYTHING, "status": _ANYTHING},
                    }
                },
                "subresources": {"status": {}},
            }
        ],
    },
}

#: Its TrainedModel, with the names that KServe's own manifest gives it.
TRAINED_MODEL_CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "trainedmodels.serving.kserve.io"},
    "spec": {
        "group": "serving.kserve.io",
        "names": {
            "kind": "TrainedModel",
            "listKind": "TrainedModelList",
            "plural": "trainedmodels",
            "singular": "trainedmodel",
            "shortNames": ["tm"],
        },
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "properties": {"spec": _ANYTHING}}
                },
            }
        ],
    },
}


def install_kind(control_plane: ControlPlane) -> None:
    """Install the kind."""
    control_plane.kubectl("apply", "-f", "-", input=json.dumps(CRD))
    crd = f"crd/{CRD['metadata']['name']}"
    control_plane.kubectl("wait", "--for=condition=Established", crd, "--timeout=30s")


def remove_kind(control_plane: ControlPlane) -> None:
    """Remove the kind, and all objects of it."""
    control_plane.kubectl("delete", "crd", CRD["metadata"]["name"], "--ignore-not-found")
    wait_until(lambda: not _is_served(control_plane))


def _is_served(control_plane: ControlPlane) -> bool:
    try:
        control_plane.kubectl("get", "--raw", "/apis/serving.kserve.io/v1beta1/inferenceservices")
    except CommandFailed:
        return False
    return True


def serve(cluster: Cluster, name: str, url: str) -> None:
    """Make an InferenceService that says where it answers."""
    document = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {},
    }
    cluster.apply(document)
    patch = json.dumps({"status": {"url": url}})
    cluster.kubectl(
        "patch", "inferenceservice", name, "--subresource=status", "--type=merge", "-p", patch
    )
