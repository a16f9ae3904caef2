"""Health: whether a replica is alive and ready, as the kubelet asks.

Liveness, the rules in order:

1. Leader election made no attempt for a minute: not alive, leader or not. (It makes one every few
   seconds, with or without an answer. Only a bug stops it.)
2. The replica leads, and no resync has ended for five minutes: not alive. A new process may succeed
   where this one does not, and another replica may lead meanwhile.
3. Alive otherwise. A standby has nothing to prove beyond the first rule.

Readiness: the API answered within the last five minutes, and the webhook, if there is one, has a
certificate and serves. Leading is no condition: a standby is as ready for its task as a leader, and
a rollout that waited for each new replica to lead would never end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

DEAF_AFTER_S: Final = 300.0
STUCK_AFTER_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """The facts about a replica; times are seconds that have passed.

    Attributes:
        leading_for_s: Since it began to lead; None: it does not.
        turned_s: Since the election took a turn, or since it began; None: there is no election.
        resync_s: Since a resync ended, or was refused in every namespace that is to be served;
            None: neither has happened. What is refused here would be refused to a new process.
        reached_s: Since the API answered the election or a resync; None: never yet.
        is_injecting: Whether the webhook serves; None: there is none.
        resync_period_s: How often a resync is due.
    """

    leading_for_s: float | None
    turned_s: float | None
    resync_s: float | None
    reached_s: float | None
    is_injecting: bool | None
    resync_period_s: float


class Verdict(NamedTuple):
    """An answer to a probe, and why."""

    is_good: bool
    reason: str


def judge_life(vitals: Vitals) -> Verdict:
    """Tell whether a replica is alive."""
    if vitals.turned_s is not None and vitals.turned_s > STUCK_AFTER_S:
        return Verdict(False, f"leader election is stuck: no attempt for {vitals.turned_s:.0f} s")
    if vitals.leading_for_s is None:
        return Verdict(True, "standing by")
    silent_s = vitals.leading_for_s
    if vitals.resync_s is not None:
        silent_s = min(silent_s, vitals.resync_s)
    # A longer resync period must not kill the process between two resyncs.
    if silent_s > max(DEAF_AFTER_S, 3 * vitals.resync_period_s):
        return Verdict(False, f"leading, but no resync has finished for {silent_s:.0f} s")
    if vitals.resync_s is None:
        return Verdict(True, f"leading for {silent_s:.0f} s, no resync has finished yet")
    return Verdict(True, f"leading, a resync finished {vitals.resync_s:.0f} s ago")


def judge_readiness(vitals: Vitals) -> Verdict:
    """Tell whether a replica is ready for its task."""
    if vitals.reached_s is None:
        return Verdict(False, "the API server has not answered yet")
    if vitals.reached_s > max(DEAF_AFTER_S, 3 * vitals.resync_period_s):
        return Verdict(False, f"the API server has not answered for {vitals.reached_s:.0f} s")
    if vitals.is_injecting is False:
        return Verdict(
            False, "the webhook is not serving: it has no certificate, or it is stopping"
        )
    role = "standing by" if vitals.leading_for_s is None else "leading"
    return Verdict(True, f"{role}, the API server answered {vitals.reached_s:.0f} s ago")
