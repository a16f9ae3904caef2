"""Staleness: how long a report has not changed, and when that is too long.

A live puller changes its report at least once a period, by news or by a heartbeat. The heartbeat is
an annotation with the time, beside one with the seconds until the next one. What counts is that the
report *changed*, and when the operator saw the change on its own clock. The time in the annotation
is for people. So clocks that disagree do no harm.

The rules:

1. A report that promises no heartbeat (an older puller's) never becomes stale.
2. A report is stale when it has not changed for `MISSED` of its own periods, and for `STALE_AFTER`
   at least.
3. Time without observation does not count: after a start, or after no observation for
   `BLIND_AFTER`, counting begins again. An API server that was away silenced the pullers too.
   Resyncs are the observations. A resync period longer than that never makes a report stale.
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
        """Whether the content of the report may be outdated."""
        return self.lasted >= self.limit


def observe(
    before: LastSeen | None, version: str, now: float, *, missed_observations: bool
) -> LastSeen:
    """Note a report as it is now; `version` is its resourceVersion."""
    if before is None or before.version != version or missed_observations:
        return LastSeen(version, now)
    return before


def missed_observations(looked_at: float | None, now: float) -> bool:
    """Tell whether the operator has not observed for too long to judge any report."""
    return looked_at is None or now - looked_at > BLIND_AFTER.total_seconds()


def staleness(seen: LastSeen, annotations: Mapping[str, str], now: float) -> Staleness | None:
    """Return how quiet a report is; None if it promises no heartbeats."""
    period = heartbeat_period(annotations)
    if period is None:
        return None
    return Staleness(timedelta(seconds=now - seen.at), max(MISSED * period, STALE_AFTER))
