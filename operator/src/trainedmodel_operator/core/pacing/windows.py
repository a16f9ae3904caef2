"""Windows: when a service may get a pass, and when its shards and statuses may be written.

A burst must not become a write for each of its objects, and a single change must not wait. One rule
gives both: *the first change after a quiet time runs at once, the next ones wait a window that
grows while they keep coming*. All times are seconds of one monotonic clock and are parameters.

Shard window: 0.5 s after the first write, doubled by each write that follows as soon as it may, up
to 2 s. If it opens in the middle of a burst (the last trigger less than `SETTLE_S` ago), the write
waits for the burst to settle, at most `HOLD_S` more. So a burst of 5 s costs three writes and one
of 13 s five, and no change waits longer than 4 s. A window is at least four times as long as the
last pass: the operator spends at most a fifth of its time on one service. It returns to zero after
it was open for as long as the longest window.

A change that comes alone (no other in the `SETTLE_S` before it) is no burst. It does not wait for
the window of another such change (only for `SETTLE_S` since the last write), and lengthens none. So
a user who applies models one by one, each when the last one is Ready, waits for no window.

Triggers: a changed *model* may start a pass as soon as the shard window allows. A changed *report*
(far more frequent) waits a window of its own, 0.05 s after a pass, doubled by each pass that
follows soon, up to 0.5 s. So the first report of a pod counts at once, and a hundred pods that load
a thousand models cause two passes a second. Such a pass writes shards only if their window is open.
Otherwise it writes statuses only, and the shards follow when their window opens.

Statuses: a change that a person waits for is *urgent* (the first status of a generation, Accepted
or Ready changes, a failure appears or disappears) and is written at once. A *telling* change
(progress of a download, copies, Available) waits until 5 s after the model's last write, and after
a telling write 15 s. A change between states on the way (waiting, verifying, loading) waits a
minute: a server that loads 200 models one after the other moves each of them through several such
states, and nobody reads them 200 times. So a model that becomes ready costs three writes, whatever
its pods report on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from math import inf
from typing import Any, Final

from trainedmodel_contract.conditions import find_condition
from trainedmodel_contract.reasons import State
from trainedmodel_contract.trainedmodel import ACCEPTED, AVAILABLE, READY

from trainedmodel_operator.core.pacing.backoff import pause_s

FIRST_WINDOW_S: Final = 0.5
LONGEST_WINDOW_S: Final = 2.0
SETTLE_S: Final = 0.25
HOLD_S: Final = 2.0
COST_FACTOR: Final = 4.0
LONGEST_COST_WINDOW_S: Final = 15.0
FIRST_REPORT_WINDOW_S: Final = 0.05
LONGEST_REPORT_WINDOW_S: Final = 0.5
#: Even passes that write nothing leave the loop to others for a moment.
BREATH_S: Final = 0.05

#: A timer may fire a moment early, by its clock's resolution: what is due so soon is due.
SLACK_S: Final = 0.001

FIRST_BACKOFF_S: Final = 1.0
LONGEST_BACKOFF_S: Final = 60.0

AFTER_URGENT_S: Final = 5.0
BETWEEN_TELLING_S: Final = 15.0
AFTER_IDLE_S: Final = 60.0

#: States between which a change says no more than "still on its way".
ON_ITS_WAY: Final = frozenset({State.PENDING, State.WAITING, State.VERIFYING, State.LOADING})


class Trigger(StrEnum):
    """Why a service is to be looked at."""

    MODEL = "model"
    REPORT = "report"
    RESYNC = "resync"


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of one service; each method returns the next one.

    Attributes:
        model_triggered: A model changed since the last pass began, or a pass was held back from
            writing shards.
        report_rung: A report changed (or a resync is due) since the last pass began.
        deferred_until: When a pass asked to be made again.
        shards_open_at: When shards may be written again.
        settled_at: When the burst that is under way will have settled.
        triggered_at: When a model last changed.
        changes: How often one has since the last pass began.
        was_alone: The last pass for any change was for one alone.
        window: The shard window that led to `shards_open_at`.
        model_open_at: Earliest next pass for a changed model.
        report_open_at: Earliest next pass for a changed report.
        report_window: The report window that led to `report_open_at`.
        failures: Failed passes in a row.
        retry_at: Earliest next pass after a failure.
    """

    model_triggered: bool = False
    report_rung: bool = False
    deferred_until: float = inf
    shards_open_at: float = -inf
    settled_at: float = -inf
    triggered_at: float = -inf
    changes: int = 0
    was_alone: bool = False
    window: float = 0.0
    model_open_at: float = -inf
    report_open_at: float = -inf
    report_window: float = 0.0
    failures: int = 0
    retry_at: float = -inf

    def triggered(self, trigger: Trigger, now: float) -> Pace:
        """Note a trigger."""
        if trigger is not Trigger.MODEL:
            return replace(self, report_rung=True)
        triggered = replace(self, model_triggered=True, triggered_at=now, changes=self.changes + 1)
        if now - self.triggered_at >= SETTLE_S:
            opens_at = self.shards_open_at
            if self.was_alone:
                # the last write may have been late, and have only just ended
                opens_at = min(opens_at, max(now, opens_at - self.window + SETTLE_S))
            return replace(triggered, shards_open_at=opens_at)
        is_burst = now < self.shards_open_at + LONGEST_WINDOW_S
        return replace(triggered, settled_at=now + SETTLE_S) if is_burst else triggered

    def due(self) -> float:
        """Return when the next pass is to begin; infinity when nothing asks for one."""
        request = [self.deferred_until]
        if self.model_triggered:
            request.append(max(self._shards_due(), self.model_open_at))
        if self.report_rung:
            request.append(self.report_open_at)
        return max(min(request), self.retry_at)

    def may_write_shards(self, now: float) -> bool:
        """Tell whether a pass that begins now may write shards; to be asked before `begun`."""
        return now >= (self._shards_due() if self.model_triggered else self.shards_open_at)

    def _shards_due(self) -> float:
        return max(self.shards_open_at, min(self.settled_at, self.shards_open_at + HOLD_S))

    def begun(self) -> Pace:
        """Note that a pass begins: it sees every earlier change."""
        return replace(
            self,
            model_triggered=False,
            report_rung=False,
            deferred_until=inf,
            changes=0,
            was_alone=self.changes == 1 if self.changes else self.was_alone,
        )

    def finished(
        self,
        began: float,
        now: float,
        *,
        wrote: bool = False,
        held_back: bool = False,
        again_at: float = inf,
    ) -> Pace:
        """Note that a pass succeeded; one that was held back left shards to be written."""
        cost = min(COST_FACTOR * (now - began), LONGEST_COST_WINDOW_S)
        report_window = FIRST_REPORT_WINDOW_S
        if began <= self.report_open_at + LONGEST_REPORT_WINDOW_S:
            report_window = min(self.report_window * 2, LONGEST_REPORT_WINDOW_S)
        after = replace(
            self,
            model_triggered=self.model_triggered or held_back,
            deferred_until=min(self.deferred_until, again_at),
            changes=self.changes + 2 if held_back else self.changes,
            model_open_at=now + (max(BREATH_S, cost) if wrote else BREATH_S),
            report_open_at=now + max(report_window, cost),
            report_window=report_window,
            failures=0,
            retry_at=-inf,
        )
        if not wrote:
            return after
        if self.was_alone or began > self.shards_open_at + LONGEST_WINDOW_S:
            window = FIRST_WINDOW_S
        else:
            window = min(self.window * 2, LONGEST_WINDOW_S)
        return replace(after, window=window, shards_open_at=now + max(window, cost))

    def failed(self, now: float, jitter: float) -> Pace:
        """Note a failed pass, whose triggers stay due; `jitter` is between 0 and 1."""
        pause = pause_s(self.failures, jitter, first_s=FIRST_BACKOFF_S, longest_s=LONGEST_BACKOFF_S)
        return replace(self, report_rung=True, failures=self.failures + 1, retry_at=now + pause)

    def forgiven(self) -> Pace:
        """End the wait for the next try; another failure still waits for longer than the last."""
        return replace(self, retry_at=-inf)

    def forgettable_at(self) -> float:
        """Return when this pace equals that of a new service."""
        return max(
            self.shards_open_at + LONGEST_WINDOW_S, self.report_open_at + LONGEST_REPORT_WINDOW_S
        )


class Weight(IntEnum):
    """How much a changed status says to a person."""

    IDLE = 0
    TELLING = 1
    URGENT = 2


@dataclass(frozen=True, slots=True)
class LastWrite:
    """The last status write of a model, as far as pacing cares."""

    at: float
    weight: Weight


def weigh(told: Mapping[str, Any], status: Mapping[str, Any]) -> Weight:
    """Judge what `status` says that `told` did not."""
    if told.get("observedGeneration") != status.get("observedGeneration"):
        return Weight.URGENT
    if any(_value(told, kind) != _value(status, kind) for kind in (ACCEPTED, READY)):
        return Weight.URGENT
    if _has_failure(told) != _has_failure(status):
        return Weight.URGENT
    is_on_its_way = {told.get("state"), status.get("state")} <= ON_ITS_WAY
    is_same = told.get("copies") == status.get("copies") and (
        _value(told, AVAILABLE) == _value(status, AVAILABLE)
    )
    return Weight.IDLE if is_on_its_way and is_same else Weight.TELLING


def says_the_same(sent: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Tell whether two statuses differ in nothing but when their conditions turned."""
    return _undated(sent) == _undated(status)


def status_due(last: LastWrite | None, weight: Weight, now: float) -> float:
    """Return when a status may be written: at once if urgent, else in its turn."""
    if weight is Weight.URGENT or last is None:
        return now
    if weight is Weight.IDLE:
        return max(now, last.at + AFTER_IDLE_S)
    was_urgent = last.weight is Weight.URGENT
    return max(now, last.at + (AFTER_URGENT_S if was_urgent else BETWEEN_TELLING_S))


def _value(status: Mapping[str, Any], kind: str) -> object:
    return find_condition(status, kind).get("status")


def _undated(status: Mapping[str, Any]) -> dict[str, Any]:
    bare = [
        {name: value for name, value in condition.items() if name != "lastTransitionTime"}
        for condition in status.get("conditions") or ()
    ]
    return {**status, "conditions": bare}


def _has_failure(status: Mapping[str, Any]) -> bool:
    return status.get("lastFailure") is not None
