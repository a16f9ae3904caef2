"""Prometheus metrics, on a registry of our own so that tests can run two pullers in one process."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY: Final = CollectorRegistry()
_FAST: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

BYTES: Final = Counter(
    "trainedmodel_puller_downloaded_bytes", "Bytes received from stores.", registry=REGISTRY
)
DOWNLOAD_SECONDS: Final = Histogram(
    "trainedmodel_puller_download_seconds",
    "From the start of a download to a sealed version.",
    buckets=_FAST,
    registry=REGISTRY,
)
LOAD_SECONDS: Final = Histogram(
    "trainedmodel_puller_load_seconds",
    "From the start of publishing to the server's confirmation.",
    buckets=_FAST,
    registry=REGISTRY,
)
PASS_SECONDS: Final = Histogram(
    "trainedmodel_puller_pass_seconds", "One pass of the loop.", registry=REGISTRY
)
FAILURES: Final = Counter(
    "trainedmodel_puller_failures", "Failures, each retried.", ["reason"], registry=REGISTRY
)
MODELS: Final = Gauge(
    "trainedmodel_puller_models", "Models by state.", ["state"], registry=REGISTRY
)
SERVER_REACHABLE: Final = Gauge(
    "trainedmodel_puller_server_reachable", "1 while the server answers.", registry=REGISTRY
)
REPORT_WRITES: Final = Counter(
    "trainedmodel_puller_report_writes",
    "Writes of the ModelReport, by outcome.",
    ["outcome"],
    registry=REGISTRY,
)
CONFIG_IN_DOUBT: Final = Gauge(
    "trainedmodel_puller_config_in_doubt",
    "1 while the mounted configuration is not whole.",
    registry=REGISTRY,
)
