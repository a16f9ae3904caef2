"""The status that the node writes: of itself, and of its pods."""

from datetime import UTC, datetime
from typing import Any

from trainedmodel_devkit.pods import DevPod
from trainedmodel_devkit.podspec import ContainerSpec


def node_status() -> dict[str, Any]:
    """Return the status of a node with room for every pod of a test."""
    room = {"cpu": "16", "memory": "64Gi", "pods": "1000"}
    ready = _condition("Ready", True, datetime.now(UTC)) | {"reason": "KubeletReady"}
    addresses = [{"type": "InternalIP", "address": "127.0.0.1"}]
    return {
        "status": {
            "capacity": room,
            "allocatable": room,
            "conditions": [ready],
            "addresses": addresses,
        }
    }


def pod_status(pod: DevPod) -> dict[str, Any]:
    """Return the status of a pod whose processes were started.

    As with a kubelet, one that has never been ready is not ready since its start.
    """
    conditions = [
        _condition("PodScheduled", True, pod.started_at),
        _condition("Initialized", True, pod.started_at),
        _condition("ContainersReady", pod.ready, pod.turned_at),
        _condition("Ready", pod.ready, pod.turned_at),
    ]
    return {
        "status": {
            "phase": "Running",
            "startTime": _text(pod.started_at),
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "hostIP": "127.0.0.1",
            "conditions": conditions,
            "containerStatuses": [_container(pod, c) for c in pod.spec.containers if not c.sidecar],
            "initContainerStatuses": [_container(pod, c) for c in pod.spec.containers if c.sidecar],
        }
    }


def _container(pod: DevPod, spec: ContainerSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "image": f"devkit.local/{spec.name}",
        "imageID": "",
        "ready": pod.ready,
        "started": True,
        "restartCount": pod.restarts(spec.name),
        "state": {"running": {"startedAt": _text(datetime.now(UTC))}},
    }


def _condition(kind: str, holds: bool, since: datetime) -> dict[str, Any]:
    return {"type": kind, "status": str(holds), "lastTransitionTime": _text(since)}


def _text(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
