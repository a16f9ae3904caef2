"""Composition: the parts of the process, their owners, and the order in which they end.

    run
    │                           on every replica
    ├── metrics_served          /metrics
    ├── probes_served           /healthz and /readyz
    ├── run_webhook             injection and its certificates, which the leader renews
    │                           on the leader only
    ├── Leadership.run          waits for the Lease, then renews it beside the services
    │   └── services            one task group; if one task fails, the process ends
    │       ├── WorkQueue.run       the workers of the services
    │       ├── Reconciler.run      shard writes and nudges, each by itself
    │       ├── StatusWriter.run    the status writes
    │       ├── Resync.run          the survey of all services
    │       └── EventRecorder.run   the Events
    └── KopfRunner.run          kopf; starts when the first resync has succeeded

kopf is used as a source of events only: no handler that keeps state in objects, no finalizer, no
index, no event posting, no peering, no probe. So kopf writes nothing (O6), and any of its watches
may break without harm. kopf may end by itself. `kopf_runner` restarts it while the services
continue.

There are two clients. One is for the Lease. The other is for all other requests and sends a write
only while this replica leads (`leader`).

On SIGTERM all tasks are cancelled at once. The Lease is released as soon as the services have
ended. Watches and webhook may take a little longer. The next leader computes the statuses that were
not sent. A replica that loses the Lease ends its process.
"""

from __future__ import annotations

import asyncio
import copy
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog
from kubernetes.aio import client as kubernetes_client

from trainedmodel_operator.api.client import ApiKubeClient
from trainedmodel_operator.api.connection import kopf_login, load_configuration
from trainedmodel_operator.api.inference_services import InferenceServices
from trainedmodel_operator.api.report_cache import ReportCache
from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.health import Vitals
from trainedmodel_operator.core.pacing.windows import Trigger
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.errors import ConfigurationError, LeadershipLost
from trainedmodel_operator.leadership.election import make_leadership
from trainedmodel_operator.leadership.leader import Leadership, fence_at_the_wire
from trainedmodel_operator.observability.event_recorder import EventRecorder
from trainedmodel_operator.observability.lag_observer import Observer
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.observability.metrics_endpoint import metrics_served
from trainedmodel_operator.observability.probes import probes_served
from trainedmodel_operator.reconcile.initial_sync import InitialSync
from trainedmodel_operator.reconcile.inventory import Inventory
from trainedmodel_operator.reconcile.namespaces import Namespaces
from trainedmodel_operator.reconcile.reconciler import Reconciler
from trainedmodel_operator.reconcile.resync import Resync
from trainedmodel_operator.reconcile.status_writer import StatusWriter
from trainedmodel_operator.reconcile.work_queue import WorkQueue
from trainedmodel_operator.settings import Settings
from trainedmodel_operator.watch.handlers import EventHandlers, make_registry
from trainedmodel_operator.watch.kopf_runner import KopfRunner
from trainedmodel_operator.webhook.run import run_webhook

log = structlog.get_logger()


class Services:
    """All services of the leader, over one client."""

    def __init__(self, client: ApiKubeClient, metrics: Metrics, settings: Settings) -> None:
        self.metrics = metrics
        self.observer = Observer(metrics)
        instance = os.environ.get("POD_NAME") or socket.gethostname()
        self.events = EventRecorder(client, metrics, instance=instance)
        self.injects = asyncio.Event()
        self.reports = ReportCache()
        self.statuses = StatusWriter(client, metrics)
        self.statuses.written = self._status_written
        self.reconciler = Reconciler(
            client,
            self.reports,
            self.statuses,
            _utc_now,
            services=InferenceServices(client),
            observed=self.observer.pass_made,
            metrics=metrics,
        )
        self.queue = WorkQueue(self.reconciler.reconcile, metrics)
        self.reconciler.rings(lambda key: self.queue.enqueue(key, Trigger.RESYNC))
        self.statuses.yields_to = lambda: self.queue.is_full
        self.namespaces = Namespaces(client, metrics, settings.namespaces)
        self.namespaces.left_out = self._left_out
        self.reconciler.is_readable = self.namespaces.is_readable
        self.inventory = Inventory(client, self.reports, self.namespaces)
        self.resync = Resync(
            self.inventory,
            self.queue.enqueue,
            period_s=settings.resync_s,
            is_settled=self.reconciler.is_settled,
            initial_sync=InitialSync(client, self.inventory, self.reports, self.reconciler.judge),
        )

    async def run(self) -> None:
        """Run until cancelled, or until a part fails."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queue.run(), name="work queue")
            group.create_task(self.reconciler.run(), name="late writes and nudges")
            group.create_task(self.statuses.run(), name="status writer")
            group.create_task(self.resync.run(), name="resync")
            group.create_task(self.events.run(), name="events")

    def _left_out(self, namespace: str) -> None:
        self.reconciler.forget_namespace(namespace)
        self.observer.forget_namespace(namespace)

    def _status_written(
        self, key: ServiceKey, name: str, uid: str, told: Document, status: Document
    ) -> None:
        self.events.status_written(key, name, uid, told, status)
        self.observer.status_written(uid, status)


async def run(settings: Settings) -> None:
    """Run the operator until a signal ends it.

    Raises:
        ConfigurationError: the API cannot be reached, or a port cannot be bound.
        LeadershipLost: another replica leads, or may; the process must end.
        ExceptionGroup: a part failed; the process must end and be restarted.
    """
    metrics = Metrics()
    configuration = await load_configuration()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(metrics_served(settings.metrics_port, metrics.registry))
        of_lease = await stack.enter_async_context(kubernetes_client.ApiClient(configuration))
        leadership = await make_leadership(settings.lease, settings.namespaces, of_lease, metrics)
        fenced = copy.copy(configuration)
        fenced.trace_configs = [fence_at_the_wire(leadership.fence)]
        api = await stack.enter_async_context(kubernetes_client.ApiClient(fenced))
        services = Services(ApiKubeClient(api, metrics, leadership.fence), metrics, settings)
        log.info("operator_started", namespaces=settings.namespaces or "all")
        webhook = partial(
            run_webhook,
            settings.webhook,
            api,
            metrics,
            is_leader=lambda: leadership.is_leading,
            has_begun=services.injects,
        )
        look = partial(_look, leadership, services, settings)
        try:
            async with probes_served(settings.health_port, look):
                await _supervise(leadership, services, settings, configuration, webhook)
        except ExceptionGroup as failures:
            raise _what_failed(failures) from None
    log.info("operator_stopped")


async def _supervise(
    leadership: Leadership,
    services: Services,
    settings: Settings,
    configuration: kubernetes_client.Configuration,
    webhook: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Run the parts; the end or failure of one is the end of all."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def take_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)

    take_signals()
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(leadership.run(services.run), name="leadership")]
        if settings.webhook.port:
            running.append(group.create_task(webhook(), name="webhook"))
        if await _is_first(services.resync.has_begun, stopping):
            handlers = EventHandlers(
                services.queue.enqueue,
                services.reports,
                services.resync.ask,
                services.inventory.has_seen,
                services.observer,
            )
            watches = KopfRunner(
                lambda: make_registry(handlers, lambda: kopf_login(configuration)),
                services.metrics,
                namespaces=settings.namespaces,
                most_models=lambda: services.inventory.most_models,
                begun=take_signals,
                broken=services.resync.fresh,
            )
            running.append(group.create_task(watches.run(), name="watches"))
            await stopping.wait()
        for task in reversed(running):
            task.cancel()


def _look(leadership: Leadership, services: Services, settings: Settings) -> Vitals:
    """Collect the vitals for the probes."""
    now = asyncio.get_running_loop().time()
    resync = services.resync
    answers = [at for at in (resync.ended_at, resync.answered_at) if at is not None]
    reached = [at for at in (leadership.reached_at, *answers) if at is not None]
    return Vitals(
        leading_for_s=_since(leadership.leading_since, now),
        turned_s=_since(leadership.turned_at, now),
        resync_s=_since(max(answers, default=None), now),
        reached_s=_since(max(reached, default=None), now),
        is_injecting=services.injects.is_set() if settings.webhook.port else None,
        resync_period_s=settings.resync_s,
    )


def _since(at: float | None, now: float) -> float | None:
    return None if at is None else now - at


def _what_failed(failures: ExceptionGroup[Exception]) -> Exception:
    """Return the failure that says all that is to be said, if there is one among them."""
    known: Exception | None = failures.subgroup((ConfigurationError, LeadershipLost))
    while isinstance(known, ExceptionGroup):
        known = known.exceptions[0]
    return known or failures


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


def _utc_now() -> datetime:
    return datetime.now(UTC)
