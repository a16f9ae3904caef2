"""A token bucket: how often something may happen, on average and in a burst."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """Tokens that come back with time; each change returns the next bucket.

    Attributes:
        rate: Tokens that come back in a second.
        burst: Tokens that a rested bucket holds.
        tokens: Tokens at the time `at`; below zero while in debt.
        at: When they were counted; minus infinity: never, so none has come back since.
    """

    rate: float
    burst: float
    tokens: float
    at: float = -inf

    @classmethod
    def full(cls, rate: float, burst: float) -> TokenBucket:
        """Return a rested bucket."""
        return cls(rate, burst, burst)

    def held(self, now: float) -> float:
        """Return the tokens at `now`."""
        if self.at == -inf:
            return self.tokens
        return min(self.burst, self.tokens + (now - self.at) * self.rate)

    def due(self, now: float) -> float:
        """Return when there is a whole token; `now` if there is one."""
        missing = 1.0 - self.held(now)
        return now + missing / self.rate if missing > 0 else now

    def taken(self, now: float, *, most_debt: float = inf) -> TokenBucket:
        """Return the bucket without one token; it owes at most `most_debt` then."""
        return replace(self, tokens=max(self.held(now) - 1.0, -most_debt), at=now)
