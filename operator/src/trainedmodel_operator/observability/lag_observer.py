"""The observer: turns what the other parts report into metrics. Nothing depends on it.

It gets each event, pass and written status, adds the time, and leaves the interpretation to
`core.latency`.
"""

from __future__ import annotations

import asyncio

from trainedmodel_contract.conditions import is_true
from trainedmodel_contract.trainedmodel import READY

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.latency import LatencyTracker, PropagationTracker, StateCounts
from trainedmodel_operator.core.plan import Plan
from trainedmodel_operator.core.state import Gathered
from trainedmodel_operator.observability.metrics import Metrics


class Observer:
    """Measures lags and counts models."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._changes = LatencyTracker()
        self._behind = PropagationTracker()
        self._tally = StateCounts()

    def model_event(self, kind: str, uid: str, generation: int) -> None:
        """Note a watch event that shows a model made, changed or deleted (not a listed one)."""
        if kind == "DELETED":
            self._changes.gone(uid)
        else:
            self._changes.heard(uid, generation, _now())

    def pass_made(self, gathered: Gathered, decided: Plan) -> None:
        """Note the input and the plan of a pass, after its shards were written."""
        now = _now()
        for model in gathered.models:
            lag = self._changes.seen(model.uid, model.generation, now)
            if lag is not None:
                self._metrics.observe_seen(lag)
        pods = {pod.uid for pod in gathered.pods}
        for lag in self._behind.update(gathered.key, decided.behind, pods, now):
            self._metrics.observe_propagation(lag)
        self._metrics.set_pods_behind(self._behind.count)
        told = {write.uid: write.status for write in decided.statuses}
        states = (
            str(told.get(model.uid, model.status).get("state") or "Unknown")
            for model in gathered.models
        )
        for (namespace, state), count in self._tally.update(gathered.key, states):
            self._metrics.set_models(namespace, state, count)

    def forget_namespace(self, namespace: str) -> None:
        """Stop counting the models and pods of a namespace: their state is not known."""
        for key in self._tally.services(namespace):
            for (_, state), count in self._tally.update(key, ()):
                self._metrics.set_models(namespace, state, count)
            self._behind.update(key, (), (), _now())
        self._metrics.set_pods_behind(self._behind.count)

    def status_written(self, uid: str, status: Document) -> None:
        """Note a status that was written: the model may be Ready."""
        if is_true(status, READY):
            generation = status.get("observedGeneration") or 0
            lag = self._changes.ready(uid, generation, _now())
            if lag is not None:
                self._metrics.observe_ready(lag)


def _now() -> float:
    return asyncio.get_running_loop().time()
