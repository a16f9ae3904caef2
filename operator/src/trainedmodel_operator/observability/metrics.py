"""Metrics: the operator's own counters, in a registry of its own.

Users build dashboards on the names, so the documentation lists them. No label has the name of a
model or a service: the number of namespaces bounds the number of series.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LAGS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)


class Metrics:
    """All counters of one operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._passes = Histogram(
            "trainedmodel_operator_reconcile_seconds",
            "Duration of one pass over one service, by its result.",
            ["result"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._leader = Gauge(
            "trainedmodel_operator_leader",
            "Whether this replica leads: 1, or 0 while it stands by.",
            registry=self.registry,
        )
        self._depth = Gauge(
            "trainedmodel_operator_queue_depth",
            "Pending work: services to reconcile, statuses and Events to write.",
            ["queue"],
            registry=self.registry,
        )
        self._writes = Counter(
            "trainedmodel_operator_writes",
            "Successful writes to the Kubernetes API, by kind of object.",
            ["kind"],
            registry=self.registry,
        )
        self._api_errors = Counter(
            "trainedmodel_operator_api_errors",
            "Failed requests to the Kubernetes API, by priority level and cause.",
            ["priority_level", "cause"],
            registry=self.registry,
        )
        self._throttled = Counter(
            "trainedmodel_operator_throttled_seconds",
            "Seconds that requests waited for their turn, by priority level.",
            ["priority_level"],
            registry=self.registry,
        )
        self._watch_restarts = Counter(
            "trainedmodel_operator_watch_restarts",
            "Restarts of the watches, by cause.",
            ["cause"],
            registry=self.registry,
        )
        self._add_left_out()
        self._add_models()

    def _add_left_out(self) -> None:
        """Add the metrics of deferred writes and unreadable namespaces."""
        self._put_off_counts: Counts[tuple[str, str]] = Counts()
        self._put_off = Gauge(
            "trainedmodel_operator_writes_put_off",
            "Writes that failed and are tried again later, by namespace and kind.",
            ["namespace", "kind"],
            registry=self.registry,
        )
        self._readable = Gauge(
            "trainedmodel_operator_namespace_readable",
            "Whether a namespace of --namespace can be read: 1, or 0 while it is left out.",
            ["namespace"],
            registry=self.registry,
        )

    def _add_models(self) -> None:
        """Add the metrics of models, Events and injected pods."""
        self._seen = self._lag("seen", "From the first event of a change to the pass that read it.")
        self._ready = self._lag("ready", "From the first event of a change to its being Ready.")
        self._propagation = self._lag(
            "propagation", "From a written shard to the report of a pod that has seen it."
        )
        self._behind = Gauge(
            "trainedmodel_operator_pods_behind",
            "Pods whose reports do not show the present shards.",
            registry=self.registry,
        )
        self._models = Gauge(
            "trainedmodel_operator_models",
            "TrainedModels by state.",
            ["namespace", "state"],
            registry=self.registry,
        )
        self._events = Counter(
            "trainedmodel_operator_events",
            "Kubernetes Events by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self._reviews = Histogram(
            "trainedmodel_operator_admission_seconds",
            "Duration of one answer of the webhook, by its decision about the pod.",
            ["reason"],
            buckets=_SECONDS,
            registry=self.registry,
        )

    def observe_review(self, reason: str, seconds: float) -> None:
        """Note the duration and the decision of an answer of the webhook."""
        self._reviews.labels(reason).observe(seconds)

    def _lag(self, what: str, documentation: str) -> Histogram:
        return Histogram(
            f"trainedmodel_operator_{what}_seconds",
            documentation,
            buckets=_LAGS,
            registry=self.registry,
        )

    def observe_seen(self, seconds: float) -> None:
        """Note how long a change waited for the pass that read it."""
        self._seen.observe(seconds)

    def observe_ready(self, seconds: float) -> None:
        """Note how long a change took to be served by every pod."""
        self._ready.observe(seconds)

    def observe_propagation(self, seconds: float) -> None:
        """Note how long a pod took to see a shard."""
        self._propagation.observe(seconds)

    def set_pods_behind(self, count: int) -> None:
        """Note how many pods have not seen their shards."""
        self._behind.set(count)

    def set_models(self, namespace: str, state: str, count: int) -> None:
        """Note how many models of a namespace are in a state; the series ends with the last one."""
        if count:
            self._models.labels(namespace, state).set(count)
        else:
            self._models.remove(namespace, state)

    def count_put_off(self, namespace: str, kind: str, change: int) -> None:
        """Note that so many more writes of a kind are put off; the series ends with the last."""
        key = (namespace, kind)
        self._put_off_counts[key] += change
        if self._put_off_counts[key] > 0:
            self._put_off.labels(*key).set(self._put_off_counts[key])
        elif change:
            del self._put_off_counts[key]
            self._put_off.remove(*key)

    def set_readable(self, namespace: str, is_readable: bool) -> None:
        """Note whether a namespace that is to be served can be read."""
        self._readable.labels(namespace).set(is_readable)

    def count_event(self, outcome: str, count: int = 1) -> None:
        """Count Kubernetes Events that were written, failed or dropped."""
        self._events.labels(outcome).inc(count)

    def count_api_error(self, level: str, cause: str) -> None:
        """Count a request that did not succeed."""
        self._api_errors.labels(level, cause).inc()

    def count_throttled(self, level: str, seconds: float) -> None:
        """Add to the time that requests waited before they were sent."""
        self._throttled.labels(level).inc(seconds)

    def count_watch_restart(self, cause: str) -> None:
        """Count a restart of the watches."""
        self._watch_restarts.labels(cause).inc()

    def observe_pass(self, result: str, seconds: float) -> None:
        """Note how long a pass took, and how it ended."""
        self._passes.labels(result).observe(seconds)

    def set_leading(self, is_leading: bool) -> None:
        """Note whether this replica leads."""
        self._leader.set(is_leading)

    def set_depth(self, queue: str, depth: int) -> None:
        """Note how many wait in a queue."""
        self._depth.labels(queue).set(depth)

    def count_write(self, kind: str) -> None:
        """Count a write that succeeded."""
        self._writes.labels(kind).inc()

    @contextmanager
    def timed_pass(self) -> Iterator[None]:
        """Time one pass, whether it succeeds or not."""
        began = perf_counter()
        result = "error"
        try:
            yield
            result = "success"
        finally:
            self.observe_pass(result, perf_counter() - began)
