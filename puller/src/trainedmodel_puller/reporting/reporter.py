"""Writes the ModelReport of the pod. The reporter reads the loop; the loop never waits for it.

The reporter owns one object, the ModelReport with the name of its pod. It writes the whole report
after each change, with the models that `core.bounds` has fitted into etcd's limit. The pause after
a write grows with its size. While nothing changes it does nothing: the loop then returns the same
mapping. A change that is only progress is written once a second at most. A new step of a model is
written only if it is still current a moment later: a small model is served within a tenth of a
second, and a report of its download would delay the report of its load.

Each write has the resourceVersion of the previous one, so it also detects edits and deletions by
other clients. The report is then read and corrected. Metadata of other clients (labels,
annotations, finalizers) is kept.

An unchanged report gets a heartbeat, so that a dead puller can be told from an idle one. It is two
annotations: the time, and the seconds until the next one. An API server reads and writes the whole
object for it, so larger reports have rarer heartbeats.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import structlog
from trainedmodel_contract import names
from trainedmodel_contract.modelreport import (
    MAX_MESSAGE,
    ModelReport,
    ReportedModel,
)
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller import metrics
from trainedmodel_puller.control.server_monitor import ServerMonitor
from trainedmodel_puller.core.backoff import pause_s
from trainedmodel_puller.core.bounds import Bounded, Budget, Level, bound_models, spacing_s
from trainedmodel_puller.core.report import diff_models, is_on_the_way, is_only_progress
from trainedmodel_puller.drivers.base import ModelServer
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.reporting.report_client import (
    ReportClient,
    ReportConflict,
    ReportGone,
    ReportRefused,
)
from trainedmodel_puller.reporting.report_documents import ReportDocuments, server_part
from trainedmodel_puller.settings import PodIdentity

log: Final = structlog.get_logger()

_PROGRESS_S: Final = 1.0
#: Actions in progress may end within this time; then one write reports all of them.
_ARRIVAL_S: Final = 0.2
#: First and longest pause after failed writes.
_RETRY_S: Final = (0.5, 30.0)
#: Least pause after a refusal: an earlier write would be refused again.
_REFUSED_S: Final = 5.0
#: A report up to this size is created with its models. A larger one is filled by a second write,
#: because only that one can leave out `managedFields`, which would double the size.
_CREATED_BYTES: Final = 100_000
#: Bytes of the report beside its models.
_HEAD_BYTES: Final = 1_000
_LEAST_BUDGET: Final = 50_000
#: Metadata of other clients, which each write preserves.
_KEPT_METADATA: Final = frozenset({"labels", "annotations", "finalizers"})
#: A heartbeat comes once a minute, or a second for each so many bytes of the report: those of 100
#: pods with 5,000 models each (310 KB, 0.15 s of an API server) then cost it a tenth of a core.
_HEARTBEAT_S: Final = 60.0
_HEARTBEAT_BYTES_PER_SECOND: Final = 2_000
#: Each heartbeat is early by up to this share, so that pods that started together spread out.
_HEARTBEAT_JITTER: Final = 0.2

Models = Mapping[str, ReportedModel]
Document = dict[str, Any]


def heartbeat_s(size: int) -> int:
    """Return how many seconds may pass between two signs of life of a report of so many bytes."""
    return round(max(_HEARTBEAT_S, size / _HEARTBEAT_BYTES_PER_SECOND))


class Passes(Protocol):
    """The part of the loop that is reported.

    Attributes:
        models: The models of the last pass; a new mapping after each change.
        on_pass: Called after each pass.
    """

    models: dict[str, ReportedModel]
    on_pass: list[Callable[[], None]]


@dataclass(frozen=True, slots=True)
class _Draft:
    """A write in the making.

    Attributes:
        changes: The differences from the last write, as a merge patch; empty if there are none.
        size: Bytes of the changes.
    """

    bounded: Bounded
    head: Document
    changes: Document
    size: int


class KubernetesReporter:
    """Keeps one ModelReport equal to the loop's last result."""

    def __init__(
        self,
        identity: PodIdentity,
        client: ReportClient,
        parts: tuple[LiveState, Passes, ServerMonitor, ModelServer],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._identity = identity
        self._jitter = jitter
        self._client = client
        self._state, self._loop, self._watch, self._server = parts
        self._news = asyncio.Event()
        self._budget = Budget()
        self._bounded = Bounded()
        self._sent: Models = {}
        self._documents = ReportDocuments(identity)
        self._sent_head: Document = {}
        self._told: tuple[object, ...] = ()
        self._version = ""
        self._kept: Document = {}
        self._is_sure = False
        self._written = float("-inf")
        self._held_until: float | None = None
        self._on_the_way_since: float | None = None
        self._promised: int | None = None
        self._beat_at = float("-inf")
        self._loop.on_pass.append(self._news.set)

    async def run(self) -> None:
        """Run until cancelled."""
        failures = 0
        while True:
            if not failures:
                await self._wait()
            self._news.clear()
            try:
                await asyncio.sleep(await self._send())
                failures = 0
            except Exception as error:
                failures += 1
                pause = pause_s(failures, *_RETRY_S, jitter=self._jitter())
                if isinstance(error, ReportRefused):
                    pause = max(pause, _REFUSED_S)
                self._failed(error, pause)
                await asyncio.sleep(pause)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._patience()):
                await self._news.wait()
        except TimeoutError:
            pass

    def _patience(self) -> float:
        """Return how long to wait for news, in seconds."""
        if self._held_until is not None:
            return max(self._held_until - time.monotonic(), 0.0)
        return max(self._beat_at - time.monotonic(), 0.0)

    def _failed(self, error: Exception, pause: float) -> None:
        if isinstance(error, ReportConflict | ReportGone):
            self._is_sure = False
        is_refused = isinstance(error, ReportRefused)
        metrics.REPORT_WRITES.labels(outcome="refused" if is_refused else "failed").inc()
        log.warning(
            "report_refused" if is_refused else "report_failed",
            error=str(error)[:500],
            retry_in_s=round(pause, 1),
            models=len(self._loop.models),
            bytes=self._bounded.size,
            budget_bytes=self._budget.wanted,
        )
        too_large = isinstance(error, ReportRefused) and error.is_too_large
        if too_large and self._budget.wanted > _LEAST_BUDGET:
            self._budget = self._budget.shrunk()

    # -- one round ----------------------------------------------------------------------

    async def _send(self) -> float:
        """Bring the report up to date; return how long to wait before the next look, seconds."""
        if not self._is_sure:
            await self._find_out()
        models, snapshot = self._loop.models, self._moment()
        self._held_until = None
        if self._is_told(models, snapshot) and self._is_sure:
            return await self._beat()
        draft = await asyncio.to_thread(self._draft, models)
        self._note(draft.bounded)
        self._held_until = self._hold_back(draft)
        if not draft.changes:
            self._sent, self._told = draft.bounded.models, (models, snapshot)
            return await self._beat()
        if self._held_until is not None:
            return 0.0
        await self._write(draft)
        self._told = (models, snapshot)
        return spacing_s(draft.bounded.size, draft.size)

    def _hold_back(self, draft: _Draft) -> float | None:
        """Return until when a draft is not worth a write of its own; None if it is now."""
        changes = draft.changes.get("models")
        since, self._on_the_way_since = self._on_the_way_since, None
        if not changes or draft.changes.keys() - {"models", "configDigest"}:
            return None
        now, until = time.monotonic(), float("-inf")
        if is_only_progress(changes) and draft.changes.keys() == {"models"}:
            until = self._written + _PROGRESS_S
        elif is_on_the_way(changes, draft.bounded.models):
            began = now if since is None else since
            until = began + _ARRIVAL_S
            self._on_the_way_since = began if now < until else None
        return until if now < until else None

    async def _beat(self) -> float:
        """Write a heartbeat if one is due; return the seconds to wait."""
        if time.monotonic() < self._beat_at:
            return 0.0
        await self._replace(self._sent, self._sent_head)
        return spacing_s(self._bounded.size, 0)

    def _heartbeat(self) -> dict[str, str]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            names.HEARTBEAT_ANNOTATION: now,
            names.HEARTBEAT_SECONDS_ANNOTATION: str(self._promised),
        }

    def _note_written(self) -> None:
        """Put off the next heartbeat: each write is one, as long as the promise still holds."""
        self._written = time.monotonic()
        if self._promised == heartbeat_s(self._bounded.size):
            early = 1 - _HEARTBEAT_JITTER * self._jitter()
            self._beat_at = self._written + self._promised * early

    def _is_told(self, models: Models, snapshot: tuple[object, ...]) -> bool:
        return bool(self._told) and self._told[0] is models and self._told[1] == snapshot

    def _moment(self) -> tuple[object, ...]:
        """Return all that the head is made of."""
        desired, watch = self._state.desired, self._watch
        return (
            desired.problem,
            desired.config_digest,
            watch.is_reachable,
            watch.since,
            watch.message,
            self._budget,
        )

    def _draft(self, models: Models) -> _Draft:
        """Make the next write; in a thread, of what never changes under it."""
        bounded = bound_models(models, self._budget, self._bounded)
        head = self._head()
        changes = self._changes(bounded.models, head)
        return _Draft(bounded, head, changes, len(json.dumps(changes)) if changes else 0)

    def _head(self) -> Document:
        problem = self._state.desired.problem
        return {
            "inferenceService": self._identity.service,
            "configDigest": self._state.desired.config_digest,
            "configProblem": {
                "reason": Reason.CONFIG_UNREADABLE,
                "message": problem[:MAX_MESSAGE].encode("utf-8", "replace").decode(),
            }
            if problem
            else None,
            "server": server_part(self._server, self._watch).to_dict(),
        }

    def _changes(self, models: Models, head: Document) -> Document:
        changes: Document = {
            key: value for key, value in head.items() if self._sent_head.get(key) != value
        }
        changed = diff_models(self._sent, models)
        if changed:
            changes["models"] = changed
        return changes

    def _note(self, bounded: Bounded) -> None:
        before, self._bounded = self._bounded, bounded
        metrics.REPORT_BYTES.set(bounded.size + _HEAD_BYTES)
        metrics.REPORT_LEVEL.set(bounded.level)
        metrics.REPORT_LEFT_OUT.set(bounded.left_out)
        if bounded.level == before.level:
            return
        say = log.error if bounded.level is Level.PARTIAL else log.warning
        say(
            "report_truncated" if bounded.level > before.level else "report_expanded",
            level=bounded.level.name,
            models=len(self._loop.models),
            left_out=bounded.left_out,
            bytes=bounded.size,
            budget_bytes=self._budget.wanted,
        )

    async def _write(self, draft: _Draft) -> None:
        try:
            await self._replace(draft.bounded.models, draft.head)
        except ReportGone:
            await self._create(draft.bounded, draft.head)
        metrics.REPORT_WRITES.labels(outcome="written").inc()
        self._sent, self._sent_head = draft.bounded.models, draft.head

    async def _replace(self, models: Models, head: Document) -> None:
        """Write the whole report over the one that was last written or read."""
        self._promised = heartbeat_s(self._bounded.size)
        document = await asyncio.to_thread(
            self._documents.make, models, head, self._kept, self._heartbeat()
        )
        document["metadata"]["resourceVersion"] = self._version
        self._version = await self._client.replace(document)
        self._note_written()

    # -- what is there ------------------------------------------------------------------

    async def _find_out(self) -> None:
        """Make sure of what the report says: the next write starts from that."""
        name = self._identity.pod_name
        self._told = ()
        document = await self._client.read(name)
        if document is None:
            draft = await asyncio.to_thread(self._draft, self._loop.models)
            self._note(draft.bounded)
            await self._create(draft.bounded, draft.head)
            return
        report = await asyncio.to_thread(ModelReport.model_validate, document)
        self._sent = report.models
        self._sent_head = {key: document.get(key) for key in self._head()}
        self._version = report.metadata.resource_version
        self._kept = {
            key: value for key, value in document["metadata"].items() if key in _KEPT_METADATA
        }
        self._is_sure = True
        if report.pod_uid != self._identity.pod_uid:
            # a dead pod of the same name (a StatefulSet's) left it: it would be collected with it
            self._beat_at = float("-inf")

    async def _create(self, bounded: Bounded, head: Document) -> None:
        self._kept, self._promised = {}, heartbeat_s(bounded.size)
        is_small = bounded.size <= _CREATED_BYTES
        models = bounded.models if is_small else {}
        document = await asyncio.to_thread(
            self._documents.make, models, head, self._kept, self._heartbeat()
        )
        self._version = await self._client.create(document)
        self._sent, self._sent_head, self._is_sure = models, head, True
        if not is_small:
            await self._replace(bounded.models, head)
            self._sent = bounded.models
        self._note_written()
        log.info("report_created", pod=self._identity.pod_name)
