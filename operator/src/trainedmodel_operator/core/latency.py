"""Latency: the times from a change to the pass that reads it, to the pods, and to Ready.

The clock is the operator's own monotonic clock. It starts when the operator *sees* a change: at the
first watch event that shows a generation. The times in the objects would not do: they have whole
seconds, no object has the time of its last spec change, and two machines' clocks would be compared.
Between the API server's answer and that event are some milliseconds, or the whole outage of a
broken watch. Other metrics show such an outage. A model that existed when the operator started is
not measured until it changes.

All memory is bounded: at most `MOST_MODELS` are tracked. Beyond that the oldest are dropped without
a measurement. So is a generation that a newer one overtakes.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from trainedmodel_operator.core.state import ServiceKey

MOST_MODELS: Final = 20_000


@dataclass(slots=True)
class _Change:
    generation: int
    heard_at: float
    is_seen: bool = False


class LatencyTracker:
    """Changes of models that were seen and are not served yet, by uid."""

    def __init__(self) -> None:
        self._changes: OrderedDict[str, _Change] = OrderedDict()

    def __len__(self) -> int:
        """Return how many models are followed."""
        return len(self._changes)

    def heard(self, uid: str, generation: int, now: float) -> None:
        """Note an event that shows a generation; only the first one counts."""
        before = self._changes.get(uid)
        if before is not None and before.generation >= generation:
            return
        self._changes[uid] = _Change(generation, now)
        self._changes.move_to_end(uid)
        if len(self._changes) > MOST_MODELS:
            self._changes.popitem(last=False)

    def gone(self, uid: str) -> None:
        """Let a deleted model go."""
        self._changes.pop(uid, None)

    def seen(self, uid: str, generation: int, now: float) -> float | None:
        """Return the age of a change, if this pass is the first that read it."""
        change = self._changes.get(uid)
        if change is None or change.is_seen or generation < change.generation:
            return None
        change.is_seen = True
        return now - change.heard_at

    def ready(self, uid: str, generation: int, now: float) -> float | None:
        """Return the age of the change that is served now, and forget it."""
        change = self._changes.get(uid)
        if change is None or generation < change.generation:
            return None
        del self._changes[uid]
        return now - change.heard_at


class PropagationTracker:
    """The pods that have not seen their shards yet, by service, and since when."""

    def __init__(self) -> None:
        self._since: dict[ServiceKey, dict[str, float]] = {}
        self.count = 0

    def update(
        self, key: ServiceKey, behind: Collection[str], pods: Collection[str], now: float
    ) -> list[float]:
        """Note which of a service's pods are behind; return the lags of those that caught up.

        A pod that ended while it was behind has no lag.
        """
        before = self._since.pop(key, {})
        caught_up = [
            now - since for uid, since in before.items() if uid not in behind and uid in pods
        ]
        after = {uid: before.get(uid, now) for uid in behind}
        if after:
            self._since[key] = after
        self.count += len(after) - len(before)
        return caught_up


class StateCounts:
    """How many models of each namespace are in each state, kept up service by service."""

    def __init__(self) -> None:
        self._services: dict[ServiceKey, Mapping[str, int]] = {}
        self._totals: Counter[tuple[str, str]] = Counter()

    def services(self, namespace: str) -> list[ServiceKey]:
        """Return the services of a namespace that have models."""
        return [key for key in self._services if key.namespace == namespace]

    def update(
        self, key: ServiceKey, states: Iterable[str]
    ) -> Iterator[tuple[tuple[str, str], int]]:
        """Recount a service's models; yield the totals that changed, zero if none is left."""
        before, after = self._services.pop(key, {}), Counter(states)
        if after:
            self._services[key] = after
        for state in sorted({*before, *after}):
            change = after[state] - before.get(state, 0)
            if change:
                total = (key.namespace, state)
                self._totals[total] += change
                yield total, self._totals[total]
                if not self._totals[total]:
                    del self._totals[total]
