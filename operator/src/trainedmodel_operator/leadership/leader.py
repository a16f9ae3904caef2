"""Leadership: one replica of several works, and writes only while it certainly leads.

`Leader` is the shell around `core.lease`. It reads the Lease until it may take it. Then it runs its
work and renews the Lease beside it. Services, watches and caches start with the work. A standby
knows only the Lease, so it holds no stale state.

There are two ways to end. In both the work is cancelled first:

- The process is told to end, or the work failed: the Lease is released, and a standby takes it at
  its next read.
- The Lease was not renewed within the deadline, or another replica holds it: `LeadershipLost`, and
  the process ends. A process never returns to standby, because only its end certainly removes the
  half-read and half-written state of a leader. A start is cheap, and the next process begins as a
  standby.

`fence` is checked before every write, and only compares the clock. It needs no task to be scheduled
in time, so a leader that was frozen finds the fence closed after the thaw, in whatever order its
tasks run. The fence is checked twice: when the turn of a request has come (`Transport`), and before
its first byte leaves (`fence_at_the_wire`), because making a connection may take seconds.

The clock continues while the machine is suspended, if the system has such a clock.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import aiohttp
import structlog

from trainedmodel_operator.core.lease import (
    Sighting,
    Step,
    Terms,
    decide,
    looks_again_in,
    next_record,
    released,
    see,
    writes_until,
)
from trainedmodel_operator.errors import (
    ApiError,
    Conflict,
    LeadershipLost,
    NotFound,
    NotLeading,
    Refused,
)
from trainedmodel_operator.leadership.lease_store import LeaseStore, now_as_text
from trainedmodel_operator.observability.metrics import Metrics

#: Limit of the release. Without a release, standbys wait until the Lease expires.
RELEASE_S: Final = 1.0
_FORBIDDEN: Final = 403

log = structlog.get_logger()

Work = Callable[[], Awaitable[None]]


def steady_clock() -> float:
    """Return the seconds of a clock that is never set and continues during a suspend."""
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)


class Leadership(Protocol):
    """The election as the other parts see it; times are of the loop's clock.

    Attributes:
        leading_since: When this replica began to lead; None: it does not.
        turned_at: When the election last took a turn; None: never yet, or there is none.
        reached_at: When the API last answered it; None: it never did.
    """

    leading_since: float | None
    turned_at: float | None
    reached_at: float | None

    @property
    def is_leading(self) -> bool:
        """Whether this replica may write now."""
        ...

    def fence(self) -> None:
        """Let a write pass.

        Raises:
            NotLeading: it must not be sent.
        """
        ...

    async def run(self, work: Work) -> None:
        """Run `work` while leading, until cancelled.

        Raises:
            LeadershipLost: the process must end.
        """
        ...


class NoElection:
    """No election: this replica leads for as long as it runs."""

    is_leading = True
    turned_at: float | None = None
    reached_at: float | None = None

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.leading_since: float | None = None

    def fence(self) -> None:
        """Let every write pass."""

    async def run(self, work: Work) -> None:
        """Run the work."""
        self.leading_since = asyncio.get_running_loop().time()
        self._metrics.set_leading(True)
        await work()


class Leader:
    """Leads while it holds the Lease."""

    def __init__(
        self,
        store: LeaseStore,
        me: str,
        terms: Terms,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = steady_clock,
        jitter: Callable[[], float] = random.random,
        date: Callable[[], str] = now_as_text,
    ) -> None:
        """Elect over `store`; `me` is this process's name, and was never another's."""
        self._store = store
        self._me = me
        self._terms = terms
        self._metrics = metrics
        self._clock = clock
        self._jitter = jitter
        self._date = date
        self._seen: Sighting | None = None
        #: Whether `_seen` is the stored Lease, as far as is known: after a write of this replica.
        self._is_current = False
        self._may_hold = False
        self._is_open = False
        self._until = float("-inf")
        self._complaint = ""
        self._leader_told = ""
        self.leading_since: float | None = None
        self.turned_at: float | None = None
        self.reached_at: float | None = None

    @property
    def is_leading(self) -> bool:
        """Whether this replica may write now."""
        return self._is_open and self._clock() < self._until

    @property
    def holder(self) -> str:
        """The holder of the Lease at the last read; empty: free, or never seen."""
        return "" if self._seen is None else self._seen.record.holder

    def fence(self) -> None:
        """Let a write pass, if the Lease was renewed recently enough.

        Raises:
            NotLeading: it was not.
        """
        if not self.is_leading:
            raise NotLeading("not sent: this replica is not the leader")

    async def run(self, work: Work) -> None:
        """Wait for the Lease, then run `work` and renew; give the Lease back at the end.

        Raises:
            LeadershipLost: alone or in a group; the Lease is not ours any more.
        """
        try:
            await self._acquire()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep(), name="lease")
                await work()
        finally:
            self._is_open, self.leading_since = False, None
            self._metrics.set_leading(False)
            await self._release()

    async def _acquire(self) -> None:
        """Look again and again, until the Lease is ours and its time is not over yet."""
        self._metrics.set_leading(False)
        failures = 0
        while not (await self._turn() and self._clock() < self._until):
            failures = failures + 1 if self._complaint else 0
            pause = looks_again_in(False, failures, self._terms)
            await asyncio.sleep(pause * (0.8 + 0.4 * self._jitter()))
        self._is_open = True
        self.leading_since = asyncio.get_running_loop().time()
        self._metrics.set_leading(True)
        log.info("leadership_acquired", identity=self._me, seconds=self._terms.duration_s)

    async def _keep(self) -> None:
        """Renew until cancelled.

        Raises:
            LeadershipLost: the deadline has passed, or another replica holds the Lease.
        """
        failures = 0
        while True:
            pause = looks_again_in(True, failures, self._terms)
            await asyncio.sleep(max(min(pause, self._until - self._clock()), 0))
            if self._clock() >= self._until:
                raise self._lost(f"not renewed for {self._terms.renew_deadline_s:g} s")
            if await self._turn():
                failures = 0
                continue
            failures += 1
            if self.holder not in {self._me, ""}:
                raise self._lost(f"{self.holder} holds the Lease")

    def _lost(self, reason: str) -> LeadershipLost:
        self._is_open = self._may_hold = False
        log.error("leadership_lost", identity=self._me, error=reason)
        return LeadershipLost(reason)

    async def _turn(self) -> bool:
        """Take one turn, and tell whether the Lease was taken or renewed in it."""
        clock = asyncio.get_running_loop().time
        self.turned_at = clock()
        try:
            async with asyncio.timeout(self._terms.attempt_s):
                is_mine = await self._try()
        except (ApiError, TimeoutError) as error:
            self._complain(error)
            return False
        if self._complaint:
            log.info("lease_reached_again")
            self._complaint = ""
        self.reached_at = clock()
        return is_mine

    async def _try(self) -> bool:
        """Read the Lease, unless it is known, and take one step of the rules.

        Raises:
            ApiError: the outcome is not known.
        """
        if self._seen is None or not self._is_current:
            # A leader must not end because an API server that lags still shows the former holder.
            found = await self._store.read(exact=self._is_open)
            self._seen = see(self._seen, found.record, found.version, self._clock())
        step = decide(self._seen, self._me, self._terms, self._clock(), self._until)
        if step is Step.WAIT:
            self._tell_leader()
            return False
        record = next_record(self._seen, self._me, self._terms, self._date())
        sent_at = self._clock()
        self._is_current, self._may_hold = False, True
        try:
            if step is Step.CREATE:
                version = await self._store.create(record)
            else:
                version = await self._store.change(self._seen.version, record)
        except Conflict:
            return False
        except NotFound:
            if step is Step.CREATE:
                raise
            return False
        self._seen = Sighting(record, version, self._clock())
        self._is_current = True
        self._until = writes_until(sent_at, self._terms)
        return True

    async def _release(self) -> None:
        """Release the Lease, if this replica may hold it; a failure is only logged."""
        if not self._may_hold:
            return
        try:
            async with asyncio.timeout(RELEASE_S):
                while not await self._try_release():
                    pass
        except (ApiError, TimeoutError) as error:
            log.warning("lease_not_released", error=_words(error))

    async def _try_release(self) -> bool:
        if self._seen is None or not self._is_current:
            found = await self._store.read(exact=True)
            self._seen = see(self._seen, found.record, found.version, self._clock())
        if self._seen.record.holder != self._me or not self._seen.version:
            return True
        self._is_current = False
        try:
            await self._store.change(self._seen.version, released(self._seen.record, self._date()))
        except Conflict:
            return False
        log.info("lease_released", identity=self._me)
        return True

    def _tell_leader(self) -> None:
        if not self._is_open and self.holder != self._leader_told:
            self._leader_told = self.holder
            log.info("standing_by", identity=self._me, leader=self.holder)

    def _complain(self, error: Exception) -> None:
        """Count a failure, and log it once, not at each turn."""
        cause = error.cause if isinstance(error, ApiError) else "unavailable"
        self._metrics.count_api_error("lease", cause)
        words = _words(error)
        if words != self._complaint:
            log.warning("lease_not_reached", identity=self._me, error=words)
        self._complaint = words


def _words(error: Exception) -> str:
    """Return the message of an error, with the fix where a person must act."""
    text = str(error) or type(error).__name__
    if isinstance(error, NotFound):
        return f"{text} (create the namespace, or set another with --lease-namespace)"
    if isinstance(error, Refused) and error.status == _FORBIDDEN:
        return f"{text} (grant get, create and patch of leases there, or set --no-leader-elect)"
    return text


def fence_at_the_wire(fence: Callable[[], None]) -> aiohttp.TraceConfig:
    """Ask `fence` once more when a write's first byte is about to leave."""

    async def ask(
        _: aiohttp.ClientSession, __: Any, sent: aiohttp.TraceRequestHeadersSentParams
    ) -> None:
        if sent.method != "GET":
            fence()

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(ask)
    return trace
