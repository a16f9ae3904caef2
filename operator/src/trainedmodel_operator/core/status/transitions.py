"""Transitions: which changes of a status become an Event.

A status describes a state. An Event describes how it came about. `transition` compares the former
status with its replacement and returns at most one Event. The rules, in order; the first that
applies decides, so the most important of several changes is reported:

1. Refused: `Accepted` became False, or its reason changed.
2. Accepted: `Accepted` became True again. The first time is no news: the model was just created.
3. Ready: `Ready` became True.
4. A failure appeared: there was none, or it has another reason. The note names the revision that
   the pod keeps serving, if it is known: a server that refused an update serves the old revision.
   Further tries, and other pods that fail for the same reason, are no news.
5. Unavailable: `Available` is no longer True, so requests may be lost.
6. Updating: another revision is desired.
7. Not ready: `Ready` is no longer True, for any other reason.

Progress is never an Event. Both statuses come from the API, so an operator that starts and finds
nothing changed writes no Event. A change that was written just before a crash may have no Event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from trainedmodel_contract.conditions import find_condition, is_true
from trainedmodel_contract.trainedmodel import ACCEPTED, AVAILABLE, READY

#: The API refuses a longer note.
MOST_NOTE: Final = 1024

Told = Mapping[str, Any]


class EventKind(StrEnum):
    """The type of an Event."""

    NORMAL = "Normal"
    WARNING = "Warning"


class Action(StrEnum):
    """The action of the operator that found the transition."""

    PLACE = "Place"
    WATCH_COPIES = "WatchCopies"


@dataclass(frozen=True, slots=True)
class Transition:
    """One piece of news about one model."""

    kind: EventKind
    reason: str
    action: Action
    note: str


def transition(told: Told, status: Told) -> Transition | None:
    """Return the news in `status` compared with `told`; the rules are listed above."""
    for rule in (_refused, _accepted, _became_ready, _failed, _unavailable, _updating, _not_ready):
        found = rule(told, status)
        if found is not None:
            return found
    return None


def _refused(told: Told, status: Told) -> Transition | None:
    now, before = find_condition(status, ACCEPTED), find_condition(told, ACCEPTED)
    if now.get("status") != "False":
        return None
    if before.get("status") == "False" and before.get("reason") == now.get("reason"):
        return None
    return _news(EventKind.WARNING, _reason(now), _message(now), Action.PLACE)


def _accepted(told: Told, status: Told) -> Transition | None:
    now, before = find_condition(status, ACCEPTED), find_condition(told, ACCEPTED)
    if now.get("status") != "True" or before.get("status") != "False":
        return None
    return _news(EventKind.NORMAL, "Accepted", _message(now), Action.PLACE)


def _became_ready(told: Told, status: Told) -> Transition | None:
    if not is_true(status, READY) or is_true(told, READY):
        return None
    ready = status.get("copies", {}).get("ready", 0)
    pods = "1 pod serves" if ready == 1 else f"{ready} pods serve"
    return _news(EventKind.NORMAL, "Ready", f"{pods} revision {status.get('revision')}.")


def _failed(told: Told, status: Told) -> Transition | None:
    now, before = status.get("lastFailure"), told.get("lastFailure")
    if not now or (before and before.get("reason") == now.get("reason")):
        return None
    serving = next(
        (
            pod.get("loadedRevision")
            for pod in status.get("pods") or ()
            if pod.get("name") == now.get("pod")
        ),
        None,
    )
    note = f"{now.get('pod')}: {now.get('message') or now.get('reason')}"
    words = f"The pod keeps serving revision {serving}. " if serving else ""
    return _news(EventKind.WARNING, str(now.get("reason")), f"{words}{note}")


def _unavailable(told: Told, status: Told) -> Transition | None:
    if not is_true(told, AVAILABLE) or is_true(status, AVAILABLE):
        return None
    return _news(EventKind.WARNING, "Unavailable", _why(status, AVAILABLE, READY))


def _updating(told: Told, status: Told) -> Transition | None:
    before, now = told.get("revision"), status.get("revision")
    if not before or not now or before == now:
        return None
    return _news(EventKind.NORMAL, "Updating", f"Revision {now} replaces {before}.")


def _not_ready(told: Told, status: Told) -> Transition | None:
    if not is_true(told, READY) or is_true(status, READY):
        return None
    return _news(EventKind.WARNING, "NotReady", _why(status, READY))


def _why(status: Told, *kinds: str) -> str:
    """Return reason and message of the conditions, each said once."""
    said = [find_condition(status, kind) for kind in kinds]
    return " ".join(dict.fromkeys(f"{_reason(one)}: {_message(one)}" for one in said if one))


def _reason(condition: Told) -> str:
    return str(condition.get("reason") or "Unknown")


def _message(condition: Told) -> str:
    return str(condition.get("message") or "")


def _news(
    kind: EventKind, reason: str, note: str, action: Action = Action.WATCH_COPIES
) -> Transition:
    encoded = note.encode()
    if len(encoded) > MOST_NOTE:
        note = encoded[: MOST_NOTE - 3].decode(errors="ignore") + "..."
    return Transition(kind, reason[:128], action, note)
