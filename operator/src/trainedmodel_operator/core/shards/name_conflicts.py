"""Name conflicts: which of several models gets one served name.

The rules:

1. The model that has the name in a shard keeps it while its spec asks for it (or is not usable, so
   that its entry is kept as it is). No other user's apply displaces it: not an older model that is
   renamed, moved here, or repaired.
2. Of models that do not have the name yet, the oldest gets it (creation time, then metadata.name).
3. A model that does not get the name which it was renamed to keeps its present entry, under the
   name in that entry, and the first right to that name.

Two models that swap their names ask for two different ones, so neither loses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """A model's request for a served name; `wanted` is None if its spec is not usable."""

    model: str
    seniority: tuple[str, str]
    wanted: str | None


@dataclass(frozen=True, slots=True)
class Loss:
    """A request that was not granted.

    Attributes:
        kept: The name under which the model's old entry stays; None if it has to go.
    """

    name: str
    owner: str
    is_owner_older: bool
    kept: str | None = None


#: The served names that a model's entries carry now. Asked for rivals only: entries are parsed.
Held = Callable[[str], Sequence[str]]


def settle_names(claims: Sequence[Claim], held: Held) -> dict[str, Loss]:
    """Return the losers, by metadata.name. Each round removes one request, so it ends."""
    asks = {claim.model: claim.wanted or next(iter(held(claim.model)), None) for claim in claims}
    losses: dict[str, Loss] = {}
    while conflicts := _conflicts(claims, asks, held):
        for owner, claim in conflicts:
            name = asks[claim.model]
            kept = next((one for one in held(claim.model) if one != name), None)
            if claim.model in losses or claim.wanted is None:
                kept = None
            first = losses.get(claim.model) or Loss(
                str(name), owner.model, owner.seniority < claim.seniority
            )
            losses[claim.model] = Loss(first.name, first.owner, first.is_owner_older, kept)
            asks[claim.model] = kept
    return losses


def _conflicts(
    claims: Sequence[Claim], asks: dict[str, str | None], held: Held
) -> list[tuple[Claim, Claim]]:
    """Return pairs of an owner and one that asks for the same name."""
    by_name: dict[str, list[Claim]] = {}
    for claim in claims:
        name = asks[claim.model]
        if name is not None:
            by_name.setdefault(name, []).append(claim)
    found: list[tuple[Claim, Claim]] = []
    for name, rivals in by_name.items():
        if len(rivals) > 1:
            owner = min(rivals, key=lambda one: (name not in held(one.model), one.seniority))
            found.extend((owner, rival) for rival in rivals if rival is not owner)
    return found
