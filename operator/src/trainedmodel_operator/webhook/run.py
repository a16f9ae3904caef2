"""The injection webhook as a part of the operator: the server with its certificates.

`app` runs `run_webhook` on every replica. The caller says which replica leads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from kubernetes.aio import client as kubernetes_client

from trainedmodel_operator.api.pod import own_namespace
from trainedmodel_operator.api.transport import Transport
from trainedmodel_operator.core.injection.resources import (
    settle,
)
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.settings import WebhookSettings
from trainedmodel_operator.webhook.certificates import (
    CertificatePlace,
    Certificates,
    FileCertificates,
    SelfSignedCertificates,
    service_hosts,
)
from trainedmodel_operator.webhook.server import serve_webhook

log = structlog.get_logger()


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
        ConfigurationError: the port cannot be bound.
    """
    resources = settle(settings.injection.resources)
    log.info(
        "puller_defaults_set",
        image=settings.injection.image,
        requests=[resources.cpu_request, resources.memory_request],
        limits=[resources.cpu_limit, resources.memory_limit],
    )
    for note in resources.notes:
        log.warning("puller_resource_adjusted", detail=note)
    certificates: Certificates
    if settings.certificates is not None:
        certificates = FileCertificates(settings.certificates)
    else:
        namespace = await asyncio.to_thread(own_namespace)
        place = CertificatePlace(
            namespace=namespace,
            secret=settings.secret,
            configuration=settings.configuration,
            hosts=service_hosts(settings.service, namespace) | frozenset(settings.hosts),
        )
        certificates = SelfSignedCertificates(Transport(api, metrics), place, is_leader)
    await serve_webhook(
        settings.port,
        settings.injection,
        certificates,
        observe=metrics.observe_review,
        has_begun=has_begun,
    )
