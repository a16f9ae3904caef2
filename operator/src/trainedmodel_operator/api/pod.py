"""The pod of the operator: its own namespace, read from its service account."""

from __future__ import annotations

from pathlib import Path
from typing import Final

NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


SHIPPED_NAMESPACE: Final = "trainedmodel-system"


def account_namespace(file: Path = NAMESPACE_FILE) -> str:
    """Return the namespace of the pod's service account, nothing outside a pod. Reads a file."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def own_namespace() -> str:
    """Return the namespace that the operator runs in; outside a cluster the one it ships with."""
    return account_namespace() or SHIPPED_NAMESPACE
