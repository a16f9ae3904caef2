"""The work queue: one worker for each service with pending work.

An event carries no data here. It only marks a service. The worker of the service makes a pass,
which reads everything again. So a hundred events between two passes cause one pass, and an event
during a pass causes another pass after it. One worker serves one service, so passes over a service
never overlap. Services have separate workers, so a slow or failing one delays no other.

`core.pacing.windows` decides *when* a pass may begin, on the monotonic clock of this loop. A failed
pass is retried without end, with back-off (1 s doubling to 60 s, with jitter), and its triggers
stay due. Two failures wait less. A conflict means that another writer wrote during the pass. The
pass is made again at once, a few times, because each try may win against a busy writer. And a
service that failed because the API server was away is retried as soon as a resync finds the server
back.

A worker ends when nothing is due and its pace equals that of a new service, so an idle operator has
no tasks here. There is no await between that check and the removal, so no event is lost between
them.

Every worker belongs to the task group of `run`. When `run` is cancelled, all of them are, and it
returns when they have ended. At most `ACTIVE_PASSES` passes run at once. This bounds the lists that
a start or a resync sends to the API server.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Final

import structlog

from trainedmodel_operator.core.pacing.windows import SLACK_S, Pace, Trigger
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.errors import ApiError, Conflict, Throttled, Unavailable
from trainedmodel_operator.observability.metrics import Metrics

ACTIVE_PASSES: Final = 8
CONFLICT_TRIES: Final = 5
CONFLICT_PAUSE_S: Final = 0.05

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PassResult:
    """The result of a pass.

    Attributes:
        wrote_shards: It wrote at least one ConfigMap: a new shard window begins.
        held_back: It had shards to write and the window was closed.
        again_in_s: It is to be made again after so long, even without a trigger.
    """

    wrote_shards: bool = False
    held_back: bool = False
    again_in_s: float = inf


#: Makes one pass over a service; told whether the shard window is open.
Reconcile = Callable[[ServiceKey, bool], Awaitable[PassResult]]


@dataclass(slots=True)
class _Slot:
    key: ServiceKey
    pace: Pace = field(default_factory=Pace)
    trigger: asyncio.Event = field(default_factory=asyncio.Event)
    was_unavailable: bool = False


class WorkQueue:
    """Turns triggers into passes."""

    def __init__(
        self,
        reconcile: Reconcile,
        metrics: Metrics,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._reconcile = reconcile
        self._metrics = metrics
        self._jitter = jitter
        self._slots: dict[ServiceKey, _Slot] = {}
        self._waiting: set[ServiceKey] = set()
        self._active = asyncio.Semaphore(ACTIVE_PASSES)
        self._group: asyncio.TaskGroup | None = None

    def enqueue(self, key: ServiceKey, trigger: Trigger) -> None:
        """Ask for a pass over a service; costs nothing, may be called at any time."""
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = _Slot(key)
            if self._group is not None:
                self._group.create_task(self._work(slot), name=f"worker {key}")
        if trigger is Trigger.RESYNC and slot.was_unavailable:
            slot.pace = slot.pace.forgiven()
        slot.pace = slot.pace.triggered(trigger, asyncio.get_running_loop().time())
        slot.trigger.set()
        self._waiting.add(key)
        self._metrics.set_depth("services", len(self._waiting))

    @property
    def is_full(self) -> bool:
        """Whether passes wait for others to end: the operator, or the API server, is behind."""
        return self._active.locked()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for slot in self._slots.values():
                group.create_task(self._work(slot), name=f"worker {slot.key}")
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None

    async def _work(self, slot: _Slot) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while True:
                due = slot.pace.due()
                if due <= clock() + SLACK_S:
                    await self._pass(slot, due)
                    continue
                until = due if due < inf else slot.pace.forgettable_at()
                if due == inf and until <= clock() + SLACK_S:
                    return
                slot.trigger.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await slot.trigger.wait()
        finally:
            del self._slots[slot.key]

    async def _pass(self, slot: _Slot, due: float) -> None:
        clock = asyncio.get_running_loop().time
        async with self._active:
            began = max(clock(), due)
            is_open = slot.pace.may_write_shards(began)
            slot.pace = slot.pace.begun()
            self._waiting.discard(slot.key)
            self._metrics.set_depth("services", len(self._waiting))
            try:
                with self._metrics.timed_pass():
                    result = await self._reconcile_past_conflicts(slot.key, is_open)
            except ApiError as error:
                self._failed(slot, error)
                log.warning(
                    "pass_failed", key=str(slot.key), error_type=error.cause, error=str(error)
                )
            except Exception as error:
                self._failed(slot, error)
                log.exception("pass_crashed", key=str(slot.key))
            else:
                now = clock()
                slot.was_unavailable = False
                slot.pace = slot.pace.finished(
                    began,
                    now,
                    wrote=result.wrote_shards,
                    held_back=result.held_back,
                    again_at=now + result.again_in_s,
                )

    async def _reconcile_past_conflicts(self, key: ServiceKey, is_open: bool) -> PassResult:
        for tries in range(1, CONFLICT_TRIES):
            try:
                return await self._reconcile(key, is_open)
            except Conflict as error:
                log.info("pass_conflicted", key=str(key), error=str(error))
                await asyncio.sleep(CONFLICT_PAUSE_S * tries * self._jitter())
        return await self._reconcile(key, is_open)

    def _failed(self, slot: _Slot, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        slot.was_unavailable = isinstance(error, Unavailable | Throttled)
        if isinstance(error, Throttled):
            now += error.retry_after_s
        slot.pace = slot.pace.failed(now, self._jitter())
        self._waiting.add(slot.key)
