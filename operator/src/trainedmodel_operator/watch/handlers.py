"""Watch handlers. They only enqueue a reconcile; correctness never depends on them.

kopf watches TrainedModels and ModelReports and calls these handlers for each event. They do no I/O
and keep nothing that a pass relies on: a lost event costs at most one resync period. kopf does not
retry them, does not say when its first list is complete, and does not report a deletion that
happened while its watch was broken. So no other logic may live here. When a watch lists again
(a listed object was seen before), `listed_anew` is called. Objects deleted in the meantime caused
no event, so a resync has to find them.

`EventHandlers` remembers two things by uid. The service that a model last named, so that a model
that moves also triggers its old service. And the generation that was enqueued, so that the
operator's own status writes trigger nothing. An object in the first list of a watch that the
initial sync saw unchanged triggers nothing either: otherwise a start would make its passes twice.

The registry is private. kopf's global registry would be shared with any other imported module.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import kopf
from trainedmodel_contract import modelreport, names, trainedmodel

from trainedmodel_operator.api.report_cache import ReportCache
from trainedmodel_operator.core.pacing.windows import Trigger
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.observability.lag_observer import Observer

Event = Mapping[str, Any]
Metadata = Mapping[str, Any]
#: Service, generation, whether it is being deleted.
Aspects = tuple[str | None, int, bool]
Login = Callable[[], Awaitable[kopf.ConnectionInfo]]


class EventHandlers:
    """Turns watch events into triggers."""

    def __init__(
        self,
        enqueue: Callable[[ServiceKey, Trigger], None],
        reports: ReportCache,
        listed_anew: Callable[[], None] = lambda: None,
        is_surveyed: Callable[[Metadata], bool] = lambda metadata: False,
        observer: Observer | None = None,
    ) -> None:
        self._enqueue = enqueue
        self._reports = reports
        self._listed_anew = listed_anew
        self._is_surveyed = is_surveyed
        self._observer = observer
        self._seen: dict[str, Aspects] = {}

    def is_known(self, event: Event) -> bool:
        """Tell whether a model of a first list is as the survey saw it, and note that it is there.

        The initial sync has already enqueued its service, if that was due.
        """
        metadata = event["object"]["metadata"]
        if event["type"] is not None or metadata["uid"] in self._seen:
            return False
        if not self._is_surveyed(metadata):
            return False
        self._seen[metadata["uid"]] = _aspects(event["object"])
        return True

    def model_event(self, event: Event) -> None:
        """Enqueue the model's service, and the one that it left."""
        metadata, uid = event["object"]["metadata"], event["object"]["metadata"]["uid"]
        service, _, _ = now = _aspects(event["object"])
        before = self._seen.get(uid)
        if event["type"] is None and before is not None:
            self._listed_anew()
        if event["type"] == "DELETED":
            self._seen.pop(uid, None)
        elif before == now:
            return
        else:
            self._seen[uid] = now
        if self._observer is not None and event["type"] is not None:
            self._observer.model_event(event["type"], uid, now[1])
        services = {service, before[0] if before else None}
        for one in sorted(one for one in services if one is not None):
            self._enqueue(ServiceKey(metadata["namespace"], one), Trigger.MODEL)

    def report_event(self, event: Event) -> None:
        """Keep the report for the next pass, and enqueue its service."""
        document = event["object"]
        if event["type"] == "DELETED":
            self._reports.forget(document["metadata"]["uid"])
        elif not self._reports.offer(document):
            return  # a heartbeat, or what a pass has read already
        service = document.get("inferenceService")
        if service:
            self._enqueue(ServiceKey(document["metadata"]["namespace"], service), Trigger.REPORT)


def _aspects(model: Mapping[str, Any]) -> Aspects:
    """Return the aspects of a model of which a change enqueues its service."""
    metadata = model["metadata"]
    service = model.get("spec", {}).get("inferenceService")
    return service, metadata.get("generation", 0), "deletionTimestamp" in metadata


def make_registry(handlers: EventHandlers, login: Login) -> kopf.OperatorRegistry:
    """Make the registry: two handlers, and the login."""
    registry = kopf.OperatorRegistry()

    async def ring_for_model(event: Event, **_: Any) -> None:
        handlers.model_event(event)

    def is_news(event: Event, **_: Any) -> bool:
        # A filter costs kopf less than a handler, and a start lists all models.
        return not handlers.is_known(event)

    async def ring_for_report(event: Event, **_: Any) -> None:
        handlers.report_event(event)

    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return await login()

    group, version = names.GROUP, names.VERSION
    models = kopf.on.event(group, version, trainedmodel.PLURAL, registry=registry, when=is_news)
    models(ring_for_model)
    kopf.on.event(group, version, modelreport.PLURAL, registry=registry)(ring_for_report)
    kopf.on.login(registry=registry)(log_in)
    return registry
