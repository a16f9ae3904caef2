"""Flags of the injection webhook, and the settings made from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from trainedmodel_operator.core.injection.request import (
    RUN_AS_SERVER,
    read_cpu,
    read_size,
    read_user,
)
from trainedmodel_operator.core.injection.resources import (
    CPU_LIMIT,
    CPU_REQUEST,
    MEMORY_LIMIT,
    MEMORY_REQUEST,
    QOS,
    ResourcesDisagree,
    Said,
    settle,
)
from trainedmodel_operator.core.injection.sidecar import InjectionSettings
from trainedmodel_operator.errors import ConfigurationError
from trainedmodel_operator.settings import PULLER_IMAGE, WEBHOOK_NAME, WebhookSettings

_RESOURCES: Final = settle()


def _read_by(reader: Callable[[str], str]) -> Callable[..., str | None]:
    """Make a click callback that reads a value as an annotation of the same meaning is read."""

    def read(_: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
        try:
            return reader(text) if text else text
        except ValueError as error:
            raise click.BadParameter(f"{text!r}: {error}", param=parameter) from error

    return read


WEBHOOK_FLAGS: Final = (
    click.option(
        "--webhook-port",
        type=click.IntRange(0, 65535),
        default=0,
        show_envvar=True,
        help="Port of the webhook that injects the puller into pods; 0 turns it off.",
    ),
    click.option(
        "--webhook-certificates",
        type=click.Path(path_type=Path, file_okay=False),
        show_envvar=True,
        show_default="self-signed",
        help="Folder with tls.crt and tls.key that another tool renews, such as cert-manager.",
    ),
    click.option(
        "--webhook-service",
        default=WEBHOOK_NAME,
        show_envvar=True,
        help="Service through which API servers call the webhook.",
    ),
    click.option(
        "--webhook-secret",
        default=WEBHOOK_NAME,
        show_envvar=True,
        help="Secret that stores the self-signed certificates.",
    ),
    click.option(
        "--webhook-configuration",
        default=WEBHOOK_NAME,
        show_envvar=True,
        help="MutatingWebhookConfiguration whose caBundle gets the self-signed authority.",
    ),
    click.option(
        "--webhook-host",
        "webhook_hosts",
        multiple=True,
        hidden=True,
        help="Additional host name or address in the certificate.",
    ),
    click.option(
        "--puller-image",
        default=PULLER_IMAGE,
        show_envvar=True,
        help="Image of the injected pullers.",
    ),
    click.option(
        "--puller-pull-policy",
        type=click.Choice(["IfNotPresent", "Always", "Never"]),
        default="IfNotPresent",
        show_envvar=True,
        help="Pull policy of that image.",
    ),
    click.option(
        "--puller-cpu-request",
        callback=_read_by(read_cpu),
        show_envvar=True,
        show_default=_RESOURCES.cpu_request,
        help="CPU request of a puller.",
    ),
    click.option(
        "--puller-cpu-limit",
        callback=_read_by(read_cpu),
        show_envvar=True,
        show_default="none",
        help="CPU limit of a puller.",
    ),
    click.option(
        "--puller-memory-request",
        callback=_read_by(read_size),
        show_envvar=True,
        show_default=_RESOURCES.memory_request,
        help="Memory request of a puller.",
    ),
    click.option(
        "--puller-memory-limit",
        callback=_read_by(read_size),
        show_envvar=True,
        show_default=_RESOURCES.memory_limit,
        help="Memory limit of a puller.",
    ),
    click.option(
        "--puller-qos",
        type=click.Choice(QOS),
        show_envvar=True,
        show_default=QOS[0],
        help="'guaranteed' makes a puller's requests equal to its limits. A pod of the QoS class "
        "Guaranteed then keeps its class.",
    ),
    click.option(
        "--puller-run-as-user",
        default=RUN_AS_SERVER,
        callback=_read_by(read_user),
        show_envvar=True,
        help="User of a puller: a number; 'server' for the user of the model server, unless that "
        "is root; 'unset' to leave the user to the cluster or the image.",
    ),
)


def take_webhook_settings(options: dict[str, Any]) -> WebhookSettings:
    """Take the webhook's flags out of a command's options.

    Raises:
        ConfigurationError: two of them cannot both hold.
    """
    taken = {
        key: options.pop(key) for key in list(options) if key.startswith(("webhook_", "puller_"))
    }
    return WebhookSettings(
        port=taken["webhook_port"],
        certificates=taken["webhook_certificates"],
        service=taken["webhook_service"],
        secret=taken["webhook_secret"],
        configuration=taken["webhook_configuration"],
        hosts=taken["webhook_hosts"],
        injection=InjectionSettings(
            image=taken["puller_image"],
            pull_policy=taken["puller_pull_policy"],
            resources=_said(taken),
            run_as_user=taken["puller_run_as_user"],
        ),
    )


def _said(taken: Mapping[str, str | None]) -> Said:
    """Return what the flags say about resources; they are settled once to see that they agree."""
    fields = (CPU_REQUEST, CPU_LIMIT, MEMORY_REQUEST, MEMORY_LIMIT)
    said = Said(
        {one: value for one in fields if (value := taken[f"puller_{one}"]) is not None},
        taken["puller_qos"],
        lambda field: f"--puller-{field.replace('_', '-')}",
    )
    try:
        settle(said)
    except ResourcesDisagree as error:
        raise ConfigurationError(str(error)) from error
    return said
