"""The election as a part of the operator: whether it runs, the Lease's namespace, the identity.

The election is on in a cluster and off elsewhere: a developer's machine runs one operator, and the
namespace of the Lease often does not exist there. `--leader-elect` and `--no-leader-elect` override
this.

The identity of a process is the name of its pod and a part that is new with each start. So a
process that restarts in the same pod is a new candidate and waits for the Lease like any other. The
pod's name does not prove that the earlier process has ended, and a process that crashes again and
again must not stay the leader beside a healthy standby.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from kubernetes.aio import client as kubernetes_client

from trainedmodel_operator.api.pod import NAMESPACE_FILE, SHIPPED_NAMESPACE, account_namespace
from trainedmodel_operator.api.transport import Transport
from trainedmodel_operator.leadership.leader import Leader, Leadership, NoElection
from trainedmodel_operator.leadership.lease_store import ApiLease
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.settings import LeaseSettings


def is_elected(settings: LeaseSettings, environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether replicas elect one: as was asked for, else in a cluster only."""
    if settings.elect is not None:
        return settings.elect
    return "KUBERNETES_SERVICE_HOST" in environment and "KUBECONFIG" not in environment


def lease_namespace(
    settings: LeaseSettings,
    served: Sequence[str],
    environment: Mapping[str, str] = os.environ,
    file: Path = NAMESPACE_FILE,
) -> str:
    """Return where the Lease lies: as was asked for, else the pod's own namespace.

    Outside a pod it is the first namespace that is served, or the one that the operator ships with.
    Reads a file.
    """
    if settings.namespace:
        return settings.namespace
    return (
        account_namespace(file)
        or environment.get("POD_NAMESPACE")
        or next(iter(served), SHIPPED_NAMESPACE)
    )


def new_identity(environment: Mapping[str, str] = os.environ) -> str:
    """Return a name that no process ever had."""
    return f"{environment.get('POD_NAME') or socket.gethostname()}_{secrets.token_hex(8)}"


async def make_leadership(
    settings: LeaseSettings,
    served: Sequence[str],
    api: kubernetes_client.ApiClient,
    metrics: Metrics,
) -> Leadership:
    """Make this replica's part in the election, over a client of its own."""
    if not is_elected(settings):
        return NoElection(metrics)
    namespace = await asyncio.to_thread(lease_namespace, settings, served)
    terms = settings.terms
    store = ApiLease(Transport(api, metrics), namespace, settings.name, terms.attempt_s)
    return Leader(store, new_identity(), terms, metrics)
