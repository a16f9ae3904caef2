"""Events: the history of a model in `kubectl describe` and `kubectl get events`.

The recorder owns all Events of the operator (`events.k8s.io/v1`). It gets each status that was
*written*, with the status before it. `core.status.transitions` decides whether that is news.
`core.pacing.event_correlator` decides when and how it is written, and which news is dropped. So an
Event never precedes its status, and an operator that restarts and changes no status writes no
Event.

Guarantees: a call of the recorder takes no time and cannot fail. Writes are in the least urgent
priority level, one at a time, in a queue of their own, so they delay no shard and no status. An
Event that cannot be written is counted and dropped, without a retry. In a namespace where a write
had no answer, Events are dropped for `SLOW_S`, because each would delay those of all other
namespaces. Events that were not written when the process ends are lost.

`reportingInstance` names the pod that wrote the Event. With two replicas it shows the leader.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import structlog
from trainedmodel_contract import names, trainedmodel

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.pacing.event_correlator import (
    MOST_SERIES,
    SERIES_S,
    EventCorrelator,
    EventWrite,
    Subject,
)
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.core.status.transitions import MOST_NOTE, transition
from trainedmodel_operator.errors import ApiError, NotFound, Unavailable, Unreachable
from trainedmodel_operator.observability.metrics import Metrics

CONTROLLER: Final = f"{names.GROUP}/operator"
#: The API refuses a longer name of an instance.
MOST_INSTANCE: Final = 128
#: Failures are logged so often at most.
COMPLAIN_S: Final = 300.0
#: How long no Event is written in a namespace where one had no answer.
SLOW_S: Final = 60.0

log = structlog.get_logger()


class EventClient(Protocol):
    """The requests of the recorder."""

    async def create_event(self, namespace: str, event: Document) -> None:
        """Write a new Event."""
        ...

    async def patch_event(self, namespace: str, name: str, patch: Document) -> None:
        """Change an Event."""
        ...


class EventRecorder:
    """Writes Events for statuses that changed."""

    def __init__(
        self,
        client: EventClient,
        metrics: Metrics,
        *,
        instance: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Write as `instance`, the name of this replica; `now` dates the Events."""
        self._client = client
        self._metrics = metrics
        self._instance = (instance or names.MANAGED_BY)[:MOST_INSTANCE]
        self._now = now
        self._book = EventCorrelator()
        self._written: OrderedDict[int, str] = OrderedDict()
        self._dropped = 0
        self._complain_at = float("-inf")
        self._slow_until: dict[str, float] = {}
        self._bell = asyncio.Event()

    def status_written(
        self, key: ServiceKey, name: str, uid: str, told: Document, status: Document
    ) -> None:
        """Note a status that was written after `told`."""
        news = transition(told, status)
        if news is None:
            return
        self._book.note(Subject(key, name, uid), news, asyncio.get_running_loop().time())
        self._count()
        self._bell.set()

    async def run(self) -> None:
        """Write until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            write = self._book.take(clock())
            if write is not None:
                await self._write(write)
                self._count()
                continue
            self._bell.clear()
            until = min(self._book.due(clock()), clock() + SERIES_S)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._bell.wait()
            self._book.forget(clock())

    async def _write(self, write: EventWrite) -> None:
        namespace = write.subject.key.namespace
        now = asyncio.get_running_loop().time()
        if now < self._slow_until.get(namespace, now):
            self._metrics.count_event("failed")
            return
        try:
            known = self._written.get(write.series)
            if write.count > 1 and known is not None:
                with suppress(NotFound):  # it was deleted, or has expired: begin a new one
                    await self._client.patch_event(namespace, known, self._repeated(write))
                    return
            event = self._event(write)
            await self._client.create_event(namespace, event)
        except ApiError as error:
            self._metrics.count_event("failed")
            self._complain(error)
            if isinstance(error, Unavailable) and not isinstance(error, Unreachable):
                self._leave_alone(namespace)
            return
        self._metrics.count_event("written")
        self._written[write.series] = event["metadata"]["name"]
        if len(self._written) > MOST_SERIES:
            self._written.popitem(last=False)

    def _event(self, write: EventWrite) -> Document:
        subject, news = write.subject, write.news
        name = f"{subject.name[:200].rstrip('-.')}.{secrets.token_hex(8)}"
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": subject.key.namespace},
            "eventTime": self._time(write.at),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": str(news.action),
            "reason": news.reason,
            "type": str(news.kind),
            "note": _note(write),
            "regarding": {
                "apiVersion": names.API_VERSION,
                "kind": trainedmodel.KIND,
                "namespace": subject.key.namespace,
                "name": subject.name,
                "uid": subject.uid,
            },
        }

    def _repeated(self, write: EventWrite) -> Document:
        return {"series": {"count": write.count, "lastObservedTime": self._time(write.at)}}

    def _time(self, at: float) -> str:
        """Return the time of day at `at` of the loop's clock."""
        ago = asyncio.get_running_loop().time() - at
        when = self._now().astimezone(UTC) - timedelta(seconds=ago)
        return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def _count(self) -> None:
        self._metrics.set_depth("events", self._book.waiting)
        dropped, self._dropped = self._book.dropped - self._dropped, self._book.dropped
        self._metrics.count_event("dropped", dropped)

    def _leave_alone(self, namespace: str) -> None:
        now = asyncio.get_running_loop().time()
        self._slow_until = {one: until for one, until in self._slow_until.items() if until > now}
        self._slow_until[namespace] = now + SLOW_S

    def _complain(self, error: ApiError) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._complain_at:
            self._complain_at = now + COMPLAIN_S
            log.warning("event_not_written", error_type=error.cause, error=str(error))


def _note(write: EventWrite) -> str:
    if not write.others:
        return write.news.note
    one = write.others == 1
    models = "model" if one else "models"
    told = f"({write.others} more {models} of service {write.subject.key.service}: the same)"
    room = MOST_NOTE - len(told) - 1
    note = write.news.note.encode()[:room].decode(errors="ignore")
    return f"{note} {told}"
