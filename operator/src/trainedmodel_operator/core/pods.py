"""Facts from a Pod document: whether it is starting, and the memory of its model server.

Both are read from the Pod alone and never remembered, so a restarted operator judges as the one
before it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from trainedmodel_contract.conditions import find_condition, is_true
from trainedmodel_contract.quantity import parse_bytes

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.server import server_of

#: A kubelet stamps `startTime` and the first `Ready=False` in one turn, in whole seconds.
SAME_TURN: Final = timedelta(seconds=2)


class Readiness(Enum):
    """How far a pod has come, by its own conditions.

    `UNTOLD`: no kubelet has spoken of it. `NEVER`: it runs and has not been Ready yet. `REACHED`:
    it is Ready, or has been, or nothing shows that it has not: doubt counts as this.
    """

    UNTOLD = "untold"
    NEVER = "never"
    REACHED = "reached"


def readiness(document: Document) -> Readiness:
    """Tell how far a pod has come.

    A pod that was Ready and is no more has a transition of `Ready` later than its start; one that
    never was has `Ready=False` since its start. Both times are of one kubelet's clock, and the
    transition that a node controller makes for a lost node is later than the start anyway.
    """
    status = document.get("status") or {}
    ready = find_condition(status, "Ready")
    if not ready:
        return Readiness.UNTOLD
    if is_true(status, "Ready"):
        return Readiness.REACHED
    began, since = _time(status.get("startTime")), _time(ready.get("lastTransitionTime"))
    if began is None or since is None or since - began > SAME_TURN:
        return Readiness.REACHED
    return Readiness.NEVER


def server_memory(document: Document) -> int | None:
    """Return the memory limit of a pod's model server in bytes, None while it has none.

    It is the limit of the server's container or of the whole pod, whichever is smaller. Where it
    is not clear which container the server is, no limit is known.
    """
    server = server_of(document)
    if server is None:
        return None
    limits = (_memory_limit(server), _memory_limit(document.get("spec") or {}))
    return min((limit for limit in limits if limit is not None), default=None)


def _memory_limit(holder: Document) -> int | None:
    limits = (holder.get("resources") or {}).get("limits") or {}
    try:
        return parse_bytes(limits["memory"])
    except (KeyError, TypeError, ValueError):
        return None


def _time(text: object) -> datetime | None:
    try:
        when = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return when if when is not None and when.tzinfo is not None else None
