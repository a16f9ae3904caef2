"""The event correlator: which Events are written, when, and which are left out.

An Event is the least important write, and there may be thousands at once: the last pod of a service
comes up, and all its models become Ready in one second. The status of each model shows that. Events
are for a person who looks at one model or asks for the history of a namespace. The rules:

1. Repeats are one Event. The same news about the same model within `SERIES_S` of the last raises
   the count of the first Event's series, which is written at most every `SERIES_PAUSE_S`.
2. A service may write `BURST` normal Events and as many warnings at once, and one more every
   `REFILL_S`. A warning never waits behind a normal Event.
3. News beyond that is collected for `COLLECT_S`, by service and reason, and written as one Event on
   the last of these models, with the number of the others.
4. All Events together leave at `RATE` a second after a burst of `RATE_BURST`, so that they never
   occupy an API server.
5. At most `MOST_WAITING` wait. Beyond that they are dropped and counted, because nobody would read
   them.

So ten thousand models in 200 services that become Ready in one minute are at most 2,000 Events and
a few summaries for each service, in 80 s, instead of 10,000.

All memory is bounded. Series without effect are forgotten. Beyond `MOST_SERIES` the oldest is
forgotten too, and its next repeat is a new Event. Times are seconds of one monotonic clock and are
parameters.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from dataclasses import dataclass
from math import inf
from typing import Final

from trainedmodel_operator.core.pacing.token_bucket import TokenBucket
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.core.status.transitions import EventKind, Transition

SERIES_S: Final = 360.0
SERIES_PAUSE_S: Final = 30.0
BURST: Final = 10.0
REFILL_S: Final = 15.0
COLLECT_S: Final = 10.0
RATE: Final = 25.0
RATE_BURST: Final = 50.0
MOST_WAITING: Final = 4_000
MOST_SERIES: Final = 5_000


@dataclass(frozen=True, slots=True)
class Subject:
    """The model that an Event is about."""

    key: ServiceKey
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class EventWrite:
    """One write.

    Attributes:
        series: What identifies the series; the shell remembers the Event's name under it.
        at: When it was last seen.
        count: How often this was seen by now; from 2 on, the series of the first Event is written.
        others: Other models of the service that this Event speaks for.
    """

    series: int
    subject: Subject
    news: Transition
    at: float
    count: int = 1
    others: int = 0


@dataclass(slots=True)
class _Series:
    number: int
    subject: Subject
    news: Transition
    count: int
    last: float
    written_at: float = -inf
    others: int = 0
    is_waiting: bool = False


class EventCorrelator:
    """Takes news in, gives writes out."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._series: OrderedDict[tuple[str, Transition], _Series] = OrderedDict()
        self._summaries: dict[tuple[ServiceKey, EventKind, str], _Series] = {}
        self._buckets: dict[tuple[ServiceKey, EventKind], TokenBucket] = {}
        self._queue: list[tuple[float, int, _Series]] = []
        self._rate = TokenBucket.full(RATE, RATE_BURST)
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """How many writes wait."""
        return len(self._queue)

    def note(self, subject: Subject, news: Transition, now: float) -> None:
        """Take a piece of news in; the rules are listed at the top of this module."""
        key = (subject.uid, news)
        series = self._series.get(key)
        if series is not None and now - series.last <= SERIES_S:
            series.count += 1
            series.last = now
            self._series.move_to_end(key)
            self._put(series, max(now, series.written_at + SERIES_PAUSE_S))
        elif self._may_tell(subject.key, news.kind, now):
            series = _Series(next(self._numbers), subject, news, 1, now)
            if self._put(series, now):
                self._series[key] = series
                self._series.move_to_end(key)
                if len(self._series) > MOST_SERIES:
                    self._series.popitem(last=False)
        else:
            self._summarize(subject, news, now)

    def due(self, now: float) -> float:
        """Return when the next write may leave; infinity if none waits."""
        if not self._queue:
            return inf
        return max(self._queue[0][0], self._rate.due(now))

    def take(self, now: float) -> EventWrite | None:
        """Take the write that is due; None if none is."""
        if self.due(now) > now + 0.001:
            return None
        self._rate = self._rate.taken(now)
        _, _, series = heapq.heappop(self._queue)
        series.is_waiting = False
        series.written_at = now
        if self._is_summary(series):
            self._summaries.pop(_summary_key(series.subject, series.news), None)
        return EventWrite(
            series.number, series.subject, series.news, series.last, series.count, series.others
        )

    def forget(self, now: float) -> None:
        """Forget series and buckets that no longer affect news."""
        while self._series:
            key, oldest = next(iter(self._series.items()))
            if oldest.is_waiting or now - oldest.last <= SERIES_S:
                break
            del self._series[key]
        for one, bucket in list(self._buckets.items()):
            if bucket.held(now) >= BURST:
                del self._buckets[one]

    def _may_tell(self, key: ServiceKey, kind: EventKind, now: float) -> bool:
        bucket = self._buckets.get((key, kind)) or TokenBucket.full(1 / REFILL_S, BURST)
        if bucket.held(now) < 1.0:
            return False
        self._buckets[key, kind] = bucket.taken(now)
        return True

    def _summarize(self, subject: Subject, news: Transition, now: float) -> None:
        key = _summary_key(subject, news)
        summary = self._summaries.get(key)
        if summary is not None:
            summary.subject, summary.news = subject, news
            summary.others += 1
            summary.last = now
            return
        summary = _Series(next(self._numbers), subject, news, 1, now)
        if self._put(summary, now + COLLECT_S):
            self._summaries[key] = summary

    def _is_summary(self, series: _Series) -> bool:
        return self._summaries.get(_summary_key(series.subject, series.news)) is series

    def _put(self, series: _Series, due: float) -> bool:
        """Let a write wait for its time; return False if too many wait."""
        if series.is_waiting:
            return True
        if len(self._queue) >= MOST_WAITING:
            self.dropped += 1
            return False
        series.is_waiting = True
        heapq.heappush(self._queue, (due, series.number, series))
        return True


def _summary_key(subject: Subject, news: Transition) -> tuple[ServiceKey, EventKind, str]:
    return (subject.key, news.kind, news.reason)
