"""Flags of the leader election, and the settings made from them."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, Final

import click

from trainedmodel_operator.cli import flags
from trainedmodel_operator.core.lease import LONGEST_S, Terms
from trainedmodel_operator.errors import ConfigurationError
from trainedmodel_operator.settings import LeaseSettings

_TERMS: Final = Terms()


_DEFAULTS: Final = LeaseSettings()


_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def _object_name(_: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    if text is not None and not _NAME.fullmatch(text):
        raise click.BadParameter(
            f"{text!r} is not a valid object name: use lower-case letters, digits, '-' and '.'",
            param=parameter,
        )
    return text


LEASE_FLAGS: Final = (
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
        help="Name of the Lease. Operators that serve different namespaces need different Leases.",
    ),
    click.option(
        "--lease-duration-s",
        type=click.IntRange(2, LONGEST_S),
        default=_TERMS.duration_s,
        show_envvar=True,
        help="Seconds after the last renewal until another replica may take the Lease.",
    ),
    click.option(
        "--lease-renew-deadline-s",
        type=flags.Seconds(min=1),
        default=_TERMS.renew_deadline_s,
        show_envvar=True,
        help="Seconds that a leader keeps writing without a renewal. Less than the duration.",
    ),
    click.option(
        "--lease-retry-s",
        type=flags.Seconds(min=0.1),
        default=_TERMS.retry_s,
        hidden=True,
        help="Seconds between two renewals.",
    ),
)


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
        raise ConfigurationError(f"the --lease-*-s flags conflict: {error}") from error
    return LeaseSettings(elect=elect, namespace=namespace, name=name, terms=terms)
