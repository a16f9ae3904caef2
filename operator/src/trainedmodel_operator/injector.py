"""Injection as a part of the operator: its flags, and the webhook with its certificates as one.

`app` runs `run_webhook` on every replica; what leads is asked for, never decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from kubernetes.aio import client as kubernetes_client
from trainedmodel_contract.quantity import parse_bytes

from trainedmodel_operator.certs import (
    CertificatePlace,
    Certificates,
    FromFolder,
    SelfMade,
    service_hosts,
)
from trainedmodel_operator.core.injection.puller import InjectionSettings
from trainedmodel_operator.core.injection.wishes import Resources
from trainedmodel_operator.election import SHIPPED_NAMESPACE, account_namespace
from trainedmodel_operator.metrics import Metrics
from trainedmodel_operator.settings import PULLER_IMAGE, WEBHOOK_NAME, WebhookSettings
from trainedmodel_operator.transport import Transport
from trainedmodel_operator.webhook import serve_webhook

F = TypeVar("F", bound=Callable[..., Any])

_RESOURCES: Final = Resources()


def _quantity(_: click.Context, parameter: click.Parameter, text: str) -> str:
    try:
        if text:
            parse_bytes(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from error
    return text


_FLAGS: Final = (
    click.option(
        "--webhook-port",
        type=click.IntRange(0, 65535),
        default=0,
        show_envvar=True,
        help="Port of the webhook that injects the puller into pods; 0 for none.",
    ),
    click.option(
        "--webhook-certificates",
        type=click.Path(path_type=Path, file_okay=False),
        show_envvar=True,
        show_default="self-made",
        help="Folder with tls.crt and tls.key, kept by somebody else (cert-manager).",
    ),
    click.option(
        "--webhook-service",
        default=WEBHOOK_NAME,
        show_envvar=True,
        help="Service that API servers call the webhook by.",
    ),
    click.option(
        "--webhook-secret",
        default=WEBHOOK_NAME,
        show_envvar=True,
        help="Secret that self-made certificates are kept in.",
    ),
    click.option(
        "--webhook-configuration",
        default=WEBHOOK_NAME,
        show_envvar=True,
        help="MutatingWebhookConfiguration that self-made certificates are published in.",
    ),
    click.option(
        "--webhook-host",
        "webhook_hosts",
        multiple=True,
        hidden=True,
        help="Another name or address that the webhook is called by.",
    ),
    click.option(
        "--puller-image",
        default=PULLER_IMAGE,
        show_envvar=True,
        help="Image of the pullers that are injected.",
    ),
    click.option(
        "--puller-pull-policy",
        type=click.Choice(["IfNotPresent", "Always", "Never"]),
        default="IfNotPresent",
        show_envvar=True,
        help="When kubelets pull that image.",
    ),
    click.option(
        "--puller-cpu-request",
        default=_RESOURCES.cpu_request,
        show_envvar=True,
        help="Processors that a puller asks for.",
    ),
    click.option(
        "--puller-cpu-limit",
        default=_RESOURCES.cpu_limit,
        show_envvar=True,
        show_default="none",
        help="Processors that a puller may use.",
    ),
    click.option(
        "--puller-memory-request",
        default=_RESOURCES.memory_request,
        callback=_quantity,
        show_envvar=True,
        help="Memory that a puller asks for.",
    ),
    click.option(
        "--puller-memory-limit",
        default=_RESOURCES.memory_limit,
        callback=_quantity,
        show_envvar=True,
        help="Memory that a puller may use.",
    ),
)


def with_webhook_flags(command: F) -> F:
    """Give a command the webhook's flags, to be read by `take_webhook_settings`."""
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command


def take_webhook_settings(options: dict[str, Any]) -> WebhookSettings:
    """Take the webhook's flags out of a command's options."""
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
            resources=Resources(
                cpu_request=taken["puller_cpu_request"],
                cpu_limit=taken["puller_cpu_limit"],
                memory_request=taken["puller_memory_request"],
                memory_limit=taken["puller_memory_limit"],
            ),
        ),
    )


async def run_webhook(
    settings: WebhookSettings,
    api: kubernetes_client.ApiClient,
    metrics: Metrics,
    *,
    is_leader: Callable[[], bool],
    has_begun: asyncio.Event,
) -> None:
    """Serve the webhook until cancelled; `has_begun` is set while it serves.

    Certificates are asked for over a transport of their own: they wait for nothing that is being
    written about models. Whether this replica may write them is asked before each step, and each
    write carries the version that it was decided on.

    Raises:
        ConfigurationError: the port cannot be listened on.
    """
    certificates: Certificates
    if settings.certificates is not None:
        certificates = FromFolder(settings.certificates)
    else:
        namespace = await asyncio.to_thread(own_namespace)
        place = CertificatePlace(
            namespace=namespace,
            secret=settings.secret,
            configuration=settings.configuration,
            hosts=service_hosts(settings.service, namespace) | frozenset(settings.hosts),
        )
        certificates = SelfMade(Transport(api, metrics), place, is_leader)
    await serve_webhook(
        settings.port,
        settings.injection,
        certificates,
        observe=metrics.observe_review,
        has_begun=has_begun,
    )


def own_namespace() -> str:
    """Return the namespace that the operator runs in; outside a cluster the one it ships with."""
    return account_namespace() or SHIPPED_NAMESPACE
