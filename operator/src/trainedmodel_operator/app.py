"""Composition: the parts, who owns whom, and how it all ends.

    run
    ├── services                one task group; if any of them fails, the process ends
    │   ├── WorkQueue.run       the workers of the parents
    │   ├── StatusWriter.run    the status writes
    │   └── Resync.run          the look at everything
    └── kopf.operator           watches, probe, signals; begins when the first resync has succeeded

kopf is the event source, the liveness server and the supervisor, and nothing else of it is used: no
handler that keeps state in objects, no finalizer, no index, no event posting, no peering. So it
writes nothing (O6), and any of its watches may break without harm.

The end: on SIGTERM kopf stops its watches and runs the clean-up handler, in which the services are
cancelled. That matters: kopf waits five seconds for every task that was made after its own start,
and the workers are among those. A watch of its own that had only just begun can cost the same five
seconds, so after `LAST_WORDS_S` it is cancelled. A status that was not sent is computed again at
the next start.
"""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime

import kopf
import structlog
from kubernetes.aio import client as kubernetes_client

from trainedmodel_operator.handlers import Bells, make_registry
from trainedmodel_operator.kube import ApiKubeClient, KubeClient, load_configuration
from trainedmodel_operator.metrics import Metrics
from trainedmodel_operator.reconciler import Reconciler
from trainedmodel_operator.reports import ReportCache
from trainedmodel_operator.resync import Resync
from trainedmodel_operator.settings import Settings
from trainedmodel_operator.statuswriter import StatusWriter
from trainedmodel_operator.workqueue import WorkQueue

#: How long kopf may take over its own end, once ours is done.
LAST_WORDS_S = 0.7

log = structlog.get_logger()


class Services:
    """Everything of ours that runs, over one client."""

    def __init__(self, client: KubeClient, metrics: Metrics, settings: Settings) -> None:
        self.reports = ReportCache()
        self.statuses = StatusWriter(client, metrics)
        self.reconciler = Reconciler(client, self.reports, self.statuses, _utc_now)
        self.queue = WorkQueue(self.reconciler.reconcile, metrics)
        self.resync = Resync(
            client, self.queue.ring, namespaces=settings.namespaces, period_s=settings.resync_s
        )

    async def run(self) -> None:
        """Run until cancelled, or until a part fails."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queue.run(), name="work queue")
            group.create_task(self.statuses.run(), name="status writer")
            group.create_task(self.resync.run(), name="resync")


async def run(settings: Settings) -> None:
    """Run the operator until a signal ends it.

    Raises:
        ConfigurationError: there is no way to the API.
        ExceptionGroup: a part failed; the process must end and be started anew.
    """
    metrics = Metrics()
    configuration = await load_configuration()
    with metrics.served(settings.metrics_port):
        async with kubernetes_client.ApiClient(configuration) as api:
            services = Services(ApiKubeClient(api, metrics), metrics, settings)
            log.info("operator starts", namespaces=settings.namespaces or "all")
            await _supervise(services, settings, configuration)
    log.info("operator ended")


async def _supervise(
    services: Services, settings: Settings, configuration: kubernetes_client.Configuration
) -> None:
    """Run services and watches; the end or failure of one is the end of both."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):  # until kopf puts its own in their place
        loop.add_signal_handler(number, stopping.set)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(services.run(), name="services")

        async def stop_services() -> None:
            stopping.set()
            running.cancel()
            await asyncio.wait([running])

        if await _is_first(services.resync.has_begun, stopping):
            bells = Bells(services.queue.ring, services.reports)
            registry = make_registry(bells, lambda: _connection(configuration), stop_services)
            watching = group.create_task(
                kopf.operator(
                    registry=registry,
                    settings=_kopf_settings(),
                    standalone=True,
                    clusterwide=not settings.namespaces,
                    namespaces=settings.namespaces,
                    liveness_endpoint=_liveness_endpoint(settings),
                    stop_flag=stopping,
                ),
                name="kopf",
            )
            await stopping.wait()
            await asyncio.wait([watching], timeout=LAST_WORDS_S)
            watching.cancel()
        await stop_services()


async def _is_first(wanted: asyncio.Event, other: asyncio.Event) -> bool:
    """Wait for either event; tell whether `other` is still to come."""
    waits = [asyncio.create_task(event.wait()) for event in (wanted, other)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
    return not other.is_set()


async def _connection(configuration: kubernetes_client.Configuration) -> kopf.ConnectionInfo:
    """Give kopf the login that our own client has; asked again when a token has expired."""
    key = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    scheme, _, token = (key or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        scheme=scheme.capitalize() or None,
        token=token or None,
    )


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # each event would be a POST
    settings.scanning.disabled = True  # the kinds are known, and CRDs need no watching
    return settings


def _liveness_endpoint(settings: Settings) -> str | None:
    return f"http://0.0.0.0:{settings.health_port}/healthz" if settings.health_port else None


def _utc_now() -> datetime:
    return datetime.now(UTC)
