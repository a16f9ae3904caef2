"""Election as a part of the operator: its flags, the place of its Lease, the name of a process.

On in a cluster, off elsewhere: on a developer's machine there is one operator, and the namespace
that a Lease would lie in is often not there. `--leader-elect` and `--no-leader-elect` decide it.

A process is called by its pod's name and something that is new with each start. So whoever starts
again in the same pod is another candidate, and waits for the Lease as any other would: the name of
a pod does not prove that the process before is dead, and one that crashes again and again must not
stay the leader beside a healthy standby.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from kubernetes.aio import client as kubernetes_client

from trainedmodel_operator.api.transport import Transport
from trainedmodel_operator.cli import flags
from trainedmodel_operator.core.lease import LONGEST_S, Terms
from trainedmodel_operator.errors import ConfigurationError
from trainedmodel_operator.leadership.leader import Alone, Leader, Leadership
from trainedmodel_operator.leadership.lease_store import ApiLease
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.settings import LeaseSettings

F = TypeVar("F", bound=Callable[..., Any])

NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
SHIPPED_NAMESPACE: Final = "trainedmodel-system"

_TERMS: Final = Terms()
_DEFAULTS: Final = LeaseSettings()
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def _object_name(_: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    if text is not None and not _NAME.fullmatch(text):
        raise click.BadParameter(f"{text!r} cannot be the name of an object", param=parameter)
    return text


_FLAGS: Final = (
    click.option(
        "--leader-elect/--no-leader-elect",
        "lease_elect",
        default=None,
        envvar="TRAINEDMODEL_OPERATOR_LEADER_ELECT",
        show_envvar=True,
        show_default="in a cluster",
        help="Work only while holding the Lease, so that several replicas can run.",
    ),
    click.option(
        "--lease-namespace",
        default=None,
        callback=flags.namespace,
        show_envvar=True,
        show_default="the pod's own",
        help="Namespace of the Lease.",
    ),
    click.option(
        "--lease-name",
        default=_DEFAULTS.name,
        callback=_object_name,
        show_envvar=True,
        help="Name of the Lease; operators that serve different namespaces need different ones.",
    ),
    click.option(
        "--lease-duration-s",
        type=click.IntRange(2, LONGEST_S),
        default=_TERMS.duration_s,
        show_envvar=True,
        help="Seconds until a leader that vanished is replaced.",
    ),
    click.option(
        "--lease-renew-deadline-s",
        type=flags.Seconds(min=1),
        default=_TERMS.renew_deadline_s,
        show_envvar=True,
        help="Seconds that a leader goes on writing without having renewed; fewer than those.",
    ),
    click.option(
        "--lease-retry-s",
        type=flags.Seconds(min=0.1),
        default=_TERMS.retry_s,
        hidden=True,
        help="Seconds between two renewals.",
    ),
)


def with_lease_flags(command: F) -> F:
    """Give a command the election's flags, to be read by `take_lease_settings`."""
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command


def take_lease_settings(options: dict[str, Any]) -> LeaseSettings:
    """Take the election's flags out of a command's options.

    Raises:
        ConfigurationError: the times do not fit together.
    """
    taken = {
        key: options.pop(f"lease_{key}")
        for key in ("elect", "namespace", "name", *(one.name for one in fields(Terms)))
        if f"lease_{key}" in options
    }
    elect, namespace, name = (taken.pop(key) for key in ("elect", "namespace", "name"))
    try:
        terms = Terms(**taken)
    except ValueError as error:
        raise ConfigurationError(f"the flags --lease-*-s do not fit together: {error}") from error
    return LeaseSettings(elect=elect, namespace=namespace, name=name, terms=terms)


def is_elected(settings: LeaseSettings, environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether replicas elect one: as was asked for, else in a cluster only."""
    if settings.elect is not None:
        return settings.elect
    return "KUBERNETES_SERVICE_HOST" in environment and "KUBECONFIG" not in environment


def account_namespace(file: Path = NAMESPACE_FILE) -> str:
    """Return the namespace of the pod's service account, nothing outside a pod. Reads a file."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


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
        return Alone(metrics)
    namespace = await asyncio.to_thread(lease_namespace, settings, served)
    terms = settings.terms
    store = ApiLease(Transport(api, metrics), namespace, settings.name, terms.attempt_s)
    return Leader(store, new_identity(), terms, metrics)
