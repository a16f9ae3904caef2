"""Quiet: how long a report has said nothing, and when that is too long.

A puller that lives changes its report at least once a period: by news, or by a heartbeat, which is
an annotation with the time, beside one that says within how many seconds the next one comes. What
counts is that the report *changed*, and when the operator saw that on its own clock; the time that
is written in it is for people. So clocks that disagree harm nobody.

The rules:

1. A report that promises no heartbeat (an older puller's) is never too quiet.
2. One is stale when it has not changed for `MISSED` of its own periods, and for `STALE_AFTER` at
   least.
3. What the operator could not watch it does not judge: after a start, or after it could not look
   for `BLIND_AFTER`, counting begins anew. An API server that was away kept the pullers silent too.
   Resyncs are the looks; one that comes less often than that never calls a report stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from trainedmodel_contract.modelreport import heartbeat_period

STALE_AFTER: Final = timedelta(minutes=3)
MISSED: Final = 3
#: More than a resync period with its jitter and a slow pass; less than `STALE_AFTER`.
BLIND_AFTER: Final = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class LastSeen:
    """When a report was first seen as it is now, in seconds of the operator's own clock."""

    version: str
    at: float


@dataclass(frozen=True, slots=True)
class Staleness:
    """How long a report that promises heartbeats has not changed, and how long it may."""

    lasted: timedelta
    limit: timedelta

    @property
    def is_stale(self) -> bool:
        """Whether what the report says may no longer be so."""
        return self.lasted >= self.limit


def observe(
    before: LastSeen | None, version: str, now: float, *, missed_observations: bool
) -> LastSeen:
    """Note a report as it is now; `version` is its resourceVersion."""
    if before is None or before.version != version or missed_observations:
        return LastSeen(version, now)
    return before


def missed_observations(looked_at: float | None, now: float) -> bool:
    """Tell whether the operator has not looked for so long that it can judge nobody."""
    return looked_at is None or now - looked_at > BLIND_AFTER.total_seconds()


def staleness(seen: LastSeen, annotations: Mapping[str, str], now: float) -> Staleness | None:
    """Return how quiet a report is; None if it promises no heartbeats."""
    period = heartbeat_period(annotations)
    if period is None:
        return None
    return Staleness(timedelta(seconds=now - seen.at), max(MISSED * period, STALE_AFTER))
