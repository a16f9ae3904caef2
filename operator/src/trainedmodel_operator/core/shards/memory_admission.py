"""Memory: whether what the models of a service declare fits into its model server.

The sum of `spec.model.memory` is held against the memory limit of the server's container, the
smallest of all pods. The rules:

1. Without a known limit (no pods, no limit on the container) nothing is refused.
2. Whatever has an entry stays: a limit that was lowered, or a model that now declares more,
   displaces nothing. What then goes beyond the limit, counted from the oldest model on, is told
   so in its condition `Accepted`, which stays True.
3. Models without an entry are let in from the oldest on, each that still fits: the newest lose,
   and one that is too large keeps no smaller one waiting (O4).
4. A model that declares nothing counts as nothing: the promise is only as good as what is declared.

A refused model is looked at again in each pass, so it comes in as soon as there is room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from trainedmodel_contract.quantity import format_bytes, format_part

from trainedmodel_operator.core.state import PodView


@dataclass(frozen=True, slots=True)
class Need:
    """What one model declares, in bytes, and whether it has an entry already."""

    name: str
    size: int
    is_placed: bool


@dataclass(frozen=True, slots=True)
class Admission:
    """The decision: a message for each model that is refused, and for each that is too much."""

    refused: Mapping[str, str] = field(default_factory=dict)
    beyond: Mapping[str, str] = field(default_factory=dict)


def memory_limit(pods: Iterable[PodView]) -> int | None:
    """Return the smallest limit of the servers of the pods that are meant to serve, in bytes."""
    limits = (pod.server_memory for pod in pods if pod.is_desired)
    return min((limit for limit in limits if limit is not None), default=None)


def admit(needs: Sequence[Need], limit: int) -> Admission:
    """Decide who is let in; `needs` from the oldest model to the newest."""
    declared = sum(need.size for need in needs if need.is_placed)
    refused: dict[str, str] = {}
    for need in needs:
        if need.is_placed or not need.size:
            continue
        if declared + need.size <= limit:
            declared += need.size
            continue
        free = format_part(max(limit - declared, 0), limit)
        refused[need.name] = (
            f"needs {format_bytes(need.size)}, {free} are declared free in the model server"
        )
    return Admission(refused, _beyond(needs, refused, limit))


def _beyond(needs: Sequence[Need], refused: Mapping[str, str], limit: int) -> dict[str, str]:
    beyond: dict[str, str] = {}
    declared = 0
    for need in needs:
        if need.name in refused:
            continue
        declared += need.size
        if need.size and declared > limit:
            beyond[need.name] = (
                f"With this model {format_part(declared, limit)} are declared: "
                "the model server may run out of memory."
            )
    return beyond
