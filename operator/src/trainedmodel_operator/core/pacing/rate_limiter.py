"""The rate limiter: when the next request to the API server may be sent.

The operator is one of many clients of an API server, and its requests differ in importance. Each
has a priority level. The most urgent first:

    READ     the input of a pass
    SHARD    pods wait for it
    NUDGE    an annotation that makes a kubelet refresh the shards
    STATUS   people read it
    EVENT    people read it later

The rules, in order:

1. A priority level that was throttled (429, or 503 with `Retry-After`) pauses for as long as the
   server asks, and so does *every less urgent one*: an overloaded server that refuses shards gets
   no statuses. More urgent levels continue, so a refused status never delays a shard.
2. While there is no answer at all (connection refused or reset), each failure pauses all priority
   levels, 0.25 s doubling to 4 s. So an outage costs a few requests a second, whatever the number
   of waiting models, and all levels resume at most 4 s after it ended. An answer of any kind, even
   a 500, ends that pause: a fault of one object must never delay another (O4).
3. Writes share one token bucket. Shards never wait for a token. They only leave fewer to the
   others, at most to a debt of one second. All other writes wait for one. Reads take none: the
   number of concurrent passes bounds them.

With the default, 300 writes a second after a burst of 600, ten thousand statuses take half a
minute, and the shards of ten thousand new models (some two thousand writes) never wait.

A pause is never longer than a minute, whatever a header says. Times are seconds of one monotonic
clock and are parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import IntEnum
from math import inf
from typing import Final

from trainedmodel_operator.core.pacing.backoff import pause_s
from trainedmodel_operator.core.pacing.token_bucket import TokenBucket

WRITES_PER_S: Final = 300.0
BURST: Final = 600.0
DEFAULT_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
FIRST_OUTAGE_PAUSE_S: Final = 0.25
LONGEST_OUTAGE_PAUSE_S: Final = 4.0
_FULL: Final = TokenBucket.full(WRITES_PER_S, BURST)


class PriorityLevel(IntEnum):
    """The purpose of a request, the most urgent first."""

    READ = 0
    SHARD = 1
    NUDGE = 2
    STATUS = 3
    EVENT = 4


@dataclass(frozen=True, slots=True)
class RateLimiter:
    """The state of all priority levels; each method that changes something returns the next one.

    Attributes:
        bucket: The tokens of all writes but shards, which may leave it in debt.
        silent_until: For each priority level, the end of its pause.
        outage_until: Until when nothing is sent because there was no answer.
        outages: Requests in a row without an answer.
    """

    bucket: TokenBucket = _FULL
    silent_until: tuple[float, ...] = (-inf,) * len(PriorityLevel)
    outage_until: float = -inf
    outages: int = 0

    def due(self, level: PriorityLevel, now: float) -> float:
        """Return when a request of this level may be sent; not after `now` if it may be now.

        Never earlier than for a more urgent priority level.
        """
        until = max(self.silent_until[: level + 1])
        until = max(until, self.outage_until)
        if level <= PriorityLevel.SHARD:
            return until
        return max(until, self.bucket.due(now))

    def sent(self, level: PriorityLevel, now: float) -> RateLimiter:
        """Note that a request is sent: a write takes its token."""
        if level is PriorityLevel.READ:
            return self
        return replace(self, bucket=self.bucket.taken(now, most_debt=self.bucket.rate))

    def paused(self, level: PriorityLevel, until: float) -> RateLimiter:
        """Note that the server asked this priority level to come back at `until`."""
        silent = list(self.silent_until)
        silent[level] = max(silent[level], until)
        return replace(self, silent_until=tuple(silent))

    def unanswered(self, now: float, jitter: float) -> RateLimiter:
        """Note a request without an answer; `jitter` is between 0 and 1."""
        if now < self.outage_until:
            return self  # sent before the last failure was known: one outage, not many
        pause = pause_s(
            self.outages, jitter, first_s=FIRST_OUTAGE_PAUSE_S, longest_s=LONGEST_OUTAGE_PAUSE_S
        )
        return replace(self, outages=self.outages + 1, outage_until=now + pause)

    def answered(self) -> RateLimiter:
        """Note an answer of any kind."""
        return self if self.outages == 0 else replace(self, outages=0, outage_until=-inf)


def pause_asked(retry_after: str | None, now: datetime) -> float | None:
    """Read a `Retry-After` header, seconds or an HTTP date; None if there is none of use.

    `now` is best the date of the answer itself: then a clock that is wrong does not matter.
    """
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_PAUSE_S)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), LONGEST_PAUSE_S)
