"""The status writer: its own queue, so that a flood of statuses never delays a shard.

A pass hands over the desired status of each model and continues. The queue merges by model: a newer
status replaces an older one that was not sent, so the sent status is always the latest. A status
that equals the stored one is dropped. `core.pacing.windows` decides when each is sent (urgent ones
at once, the others in turn). At most `IN_FLIGHT` writes run at once, and `YIELDING` while passes
queue: the same API server serves both, and ten thousand statuses would delay the shards.

Passes get the last sent statuses (`newer_than`). A list that was read during a write shows the
older status, and a comparison with that would write twice and move transition times.

A write that takes longer than `SLOW_AFTER_S` gives its slot back, and its namespace has at most
`SLOW_AT_ONCE` slots for `SLOW_S`. So a webhook that hangs there delays no other namespace.

A write that fails is retried with back-off. A write for a deleted object is dropped. A write that
the API refuses is logged and dropped, and the model gets no write for a minute. A write replaces
the whole status, so it does not depend on the stored one. It tests the object's uid, so it never
reaches a later object of the same name.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Any, Final

import structlog

from trainedmodel_operator.api.protocol import KubeClient
from trainedmodel_operator.core.pacing.backoff import pause_s
from trainedmodel_operator.core.pacing.windows import (
    AFTER_IDLE_S,
    FIRST_BACKOFF_S,
    LONGEST_BACKOFF_S,
    SLACK_S,
    LastWrite,
    Weight,
    says_the_same,
    status_due,
    weigh,
)
from trainedmodel_operator.core.plan import StatusWrite
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.core.status.status import Status
from trainedmodel_operator.errors import ApiError, NotFound, TerminalError
from trainedmodel_operator.observability.metrics import Metrics

IN_FLIGHT: Final = 16
YIELDING: Final = 2
SLOW_AFTER_S: Final = 3.0
SLOW_AT_ONCE: Final = 4
SLOW_S: Final = 30.0
FORGET_AFTER_S: Final = 2 * AFTER_IDLE_S

log = structlog.get_logger()

#: Called for each written status: service, name, uid, the status before, and the status.
Written = Callable[[ServiceKey, str, str, Mapping[str, Any], Mapping[str, Any]], None]


@dataclass(slots=True)
class _Pending:
    name: str
    namespace: str
    status: Status
    weight: Weight
    service: str
    told: Mapping[str, Any]


@dataclass(slots=True)
class _Slot:
    """One model.

    Attributes:
        sent: The status that was sent last, be it answered or not.
        answered_at: When its answer came; infinity while it is under way.
        put_off_in: The namespace of a write that failed and was not made good since.
    """

    pending: _Pending | None = None
    due: float = inf
    sent: Status | None = None
    answered_at: float = -inf
    last: LastWrite | None = None
    failures: int = 0
    retry_at: float = -inf
    put_off_in: str | None = None

    @property
    def in_flight(self) -> bool:
        return self.answered_at == inf


class StatusWriter:
    """Writes statuses, the latest of each model, as often as pacing allows."""

    def __init__(
        self,
        client: KubeClient,
        metrics: Metrics,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Write with `client`; `yields_to`, once set, tells whether more urgent work waits.

        `written`, once set, is called for each written status; it neither waits nor fails.
        """
        self._client = client
        self._metrics = metrics
        self._jitter = jitter
        self.yields_to: Callable[[], bool] = lambda: False
        self.written: Written = lambda *_: None
        self._in_flight = 0
        self._busy: Counter[str] = Counter()
        self._slow_until: dict[str, float] = {}
        self._ended = asyncio.Event()
        self._slots: dict[str, _Slot] = {}
        self._queue: list[tuple[float, str]] = []
        self._waiting: set[str] = set()
        self._forget_at = -inf
        self._bell = asyncio.Event()

    def newer_than(self, began: float, uids: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """Return the statuses sent that a list begun at `began` may not show, by uid."""
        newer: dict[str, Mapping[str, Any]] = {}
        for uid in uids:
            slot = self._slots.get(uid)
            if slot is not None and slot.sent is not None and slot.answered_at >= began:
                newer[uid] = slot.sent
        return newer

    def submit(
        self, key: ServiceKey, uids: Sequence[str], writes: Iterable[StatusWrite], began: float
    ) -> None:
        """Take the statuses of a pass begun at `began` over `uids`; the others are current.

        A status that was sent while the pass decided is not sent again with a later time.
        """
        wanted = {write.uid: write for write in writes}
        now = asyncio.get_running_loop().time()
        for uid in uids:
            slot = self._slots.get(uid)
            write = wanted.get(uid)
            if write is None or (slot is not None and _was_sent(slot, write, began)):
                if slot is not None:
                    slot.pending, slot.due = None, inf
                    self._waiting.discard(uid)
                continue
            if slot is None:
                slot = self._slots[uid] = _Slot()
            weight = weigh(write.told, write.status)
            slot.pending = _Pending(
                write.name, key.namespace, write.status, weight, key.service, write.told
            )
            self._waiting.add(uid)
            self._schedule(uid, slot, now)
        self._metrics.set_depth("statuses", len(self._waiting))
        self._bell.set()

    async def run(self) -> None:
        """Write until cancelled."""
        clock = asyncio.get_running_loop().time
        async with asyncio.TaskGroup() as group:
            while True:
                uid = self._next_due(clock() + SLACK_S)
                if uid is not None:
                    await self._turn()
                    group.create_task(self._send(uid))
                    await asyncio.sleep(0)  # the task takes the write before the next is looked for
                    continue
                self._bell.clear()
                self._forget(clock())
                until = self._queue[0][0] if self._queue else clock() + FORGET_AFTER_S
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await self._bell.wait()

    async def _turn(self) -> None:
        """Wait until one more write may be in flight, and count it."""
        while self._in_flight >= (YIELDING if self.yields_to() else IN_FLIGHT):
            self._ended.clear()
            await self._ended.wait()
        self._in_flight += 1

    def _schedule(self, uid: str, slot: _Slot, now: float) -> None:
        if slot.pending is None or slot.in_flight:
            return
        due = max(status_due(slot.last, slot.pending.weight, now), slot.retry_at)
        if due != slot.due:
            slot.due = due
            heapq.heappush(self._queue, (due, uid))

    def _next_due(self, now: float) -> str | None:
        """Take the next model whose status may be sent; skip what was rescheduled since."""
        while self._queue:
            due, uid = self._queue[0]
            slot = self._slots.get(uid)
            is_current = slot is not None and slot.due == due and not slot.in_flight
            if is_current and due > now:
                return None
            heapq.heappop(self._queue)
            if slot is None or not is_current:
                continue
            if slot.pending is not None and self._is_crowded(slot.pending.namespace, now):
                slot.due = now + 1
                heapq.heappush(self._queue, (slot.due, uid))
                continue
            return uid
        return None

    def _is_crowded(self, namespace: str, now: float) -> bool:
        """Tell whether a namespace where writes hang has as many under way as it may."""
        if now >= self._slow_until.get(namespace, now):
            return False
        return self._busy[namespace] >= SLOW_AT_ONCE

    async def _send(self, uid: str) -> None:
        slot = self._slots.get(uid)
        if slot is None or slot.pending is None or slot.in_flight:
            self._give_back()
            return
        write, slot.pending, slot.due = slot.pending, None, inf
        self._waiting.discard(uid)
        self._busy[write.namespace] += 1
        late = asyncio.get_running_loop().call_later(SLOW_AFTER_S, self._is_late, write.namespace)
        try:
            await self._write(uid, slot, write)
        finally:
            if asyncio.get_running_loop().time() < late.when():
                late.cancel()
                self._give_back()
            self._busy[write.namespace] -= 1
            if not self._busy[write.namespace]:
                del self._busy[write.namespace]
            self._metrics.set_depth("statuses", len(self._waiting))

    async def _write(self, uid: str, slot: _Slot, write: _Pending) -> None:
        clock = asyncio.get_running_loop().time
        before, slot.sent, slot.answered_at = slot.sent, write.status, inf
        try:
            await self._client.write_status(write.namespace, write.name, uid, write.status)
        except ApiError as error:
            slot.sent = before
            self._failed(uid, slot, write, error)
        else:
            self._put_off(slot, None)
            slot.failures, slot.retry_at = 0, -inf
            slot.last = LastWrite(clock(), write.weight)
            _tell(write)
            key = ServiceKey(write.namespace, write.service)
            self.written(key, write.name, uid, write.told, write.status)
        slot.answered_at = clock()
        self._schedule(uid, slot, clock())
        self._bell.set()

    def _give_back(self) -> None:
        self._in_flight -= 1
        self._ended.set()

    def _is_late(self, namespace: str) -> None:
        """Take note of a write that hangs: others go on without it."""
        now = asyncio.get_running_loop().time()
        self._slow_until = {one: until for one, until in self._slow_until.items() if until > now}
        if namespace not in self._slow_until:
            log.warning("status_writes_slow", namespace=namespace, seconds=SLOW_AFTER_S)
        self._slow_until[namespace] = now + SLOW_S
        self._give_back()

    def _put_off(self, slot: _Slot, namespace: str | None) -> None:
        """Count a model whose status could not be written, in a namespace; None: it was."""
        if slot.put_off_in is not None:
            self._metrics.count_put_off(slot.put_off_in, "status", -1)
        slot.put_off_in = namespace
        if namespace is not None:
            self._metrics.count_put_off(namespace, "status", 1)

    def _failed(self, uid: str, slot: _Slot, write: _Pending, error: ApiError) -> None:
        model = f"{write.namespace}/{write.name}"
        now = asyncio.get_running_loop().time()
        if isinstance(error, NotFound):
            slot.pending = None
            self._waiting.discard(uid)
            self._put_off(slot, None)
            return
        self._put_off(slot, write.namespace)
        if isinstance(error, TerminalError):
            slot.retry_at = now + LONGEST_BACKOFF_S
            log.error("status_refused", model=model, error=str(error))
            return
        slot.retry_at = now + pause_s(
            slot.failures, self._jitter(), first_s=FIRST_BACKOFF_S, longest_s=LONGEST_BACKOFF_S
        )
        slot.failures += 1
        if slot.pending is None:
            slot.pending = write
            self._waiting.add(uid)
        slot.pending.weight = max(slot.pending.weight, write.weight)
        slot.pending.told = write.told  # the news of this write was not written
        log.warning("status_not_written", model=model, error=str(error))

    def _forget(self, now: float) -> None:
        """Forget models that were not written for so long that pacing ignores them."""
        if now < self._forget_at:
            return
        self._forget_at = now + FORGET_AFTER_S
        for uid, slot in list(self._slots.items()):
            if slot.pending is None and slot.answered_at < now - FORGET_AFTER_S:
                self._put_off(slot, None)
                del self._slots[uid]


def _was_sent(slot: _Slot, write: StatusWrite, began: float) -> bool:
    """Tell whether a pass wants the status that was sent after its read."""
    if slot.sent is None or slot.answered_at < began or write.told == slot.sent:
        return False
    return says_the_same(slot.sent, write.status)


def _tell(write: _Pending) -> None:
    """Log an urgent status; progress has no line."""
    if write.weight is Weight.URGENT:
        log.info(
            "status_written",
            key=f"{write.namespace}/{write.service}",
            model=f"{write.namespace}/{write.name}",
            state=write.status.get("state"),
            reason=write.status.get("reason"),
            revision=write.status.get("revision"),
        )
