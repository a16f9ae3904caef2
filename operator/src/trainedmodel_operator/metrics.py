"""Metrics: what the operator counts about itself, in its own registry.

The names are part of what users build dashboards on; they are listed in the documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """All counters of one operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._passes = Histogram(
            "trainedmodel_operator_reconcile_seconds",
            "Duration of one pass over one parent, by its result.",
            ["result"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._depth = Gauge(
            "trainedmodel_operator_queue_depth",
            "What waits to be done: parents to reconcile, statuses to write.",
            ["queue"],
            registry=self.registry,
        )
        self._writes = Counter(
            "trainedmodel_operator_writes",
            "Writes to the Kubernetes API that succeeded, by what was written.",
            ["kind"],
            registry=self.registry,
        )

    def observe_pass(self, result: str, seconds: float) -> None:
        """Note how long a pass took, and how it ended."""
        self._passes.labels(result).observe(seconds)

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

    @contextmanager
    def served(self, port: int) -> Iterator[None]:
        """Serve the metrics over HTTP while the context lasts; not at all if `port` is 0."""
        if port == 0:
            yield
            return
        server, thread = start_http_server(port, registry=self.registry)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join(timeout=1)
