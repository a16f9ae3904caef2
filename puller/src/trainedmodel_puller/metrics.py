"""Prometheus metrics of the puller, on a registry of their own.

The modules count events where they happen. Gauges are set from the live state when `/metrics` is
requested (`update_gauges`). No label has a model's name, so there are some hundred series, however
many models there are. `docs/metrics.md` lists each metric with its labels, and a test compares.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from trainedmodel_contract.modelreport import ReportedModel
from trainedmodel_contract.reasons import Reason, State

from trainedmodel_puller.core.state import (
    DiskModel,
    ObservedState,
    Plan,
    Stage,
    Transfer,
)

REGISTRY: Final = CollectorRegistry()
_FAST: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_PASS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
#: Any other scheme gets the label "other": URIs are untrusted input.
_SCHEMES: Final = frozenset(
    {"s3", "gs", "http", "https", "hf", "az", "abfs", "abfss", "pvc", "file", "oci", "git"}
)


def _installed_version() -> str:
    try:
        return version("trainedmodel-puller")
    except PackageNotFoundError:
        return "unknown"


VERSION: Final = _installed_version()


def _counter(name: str, words: str, *labels: str) -> Counter:
    return Counter(f"trainedmodel_puller_{name}", words, labels, registry=REGISTRY)


def _gauge(name: str, words: str, *labels: str) -> Gauge:
    return Gauge(f"trainedmodel_puller_{name}", words, labels, registry=REGISTRY)


def _seconds(name: str, words: str, buckets: Iterable[float] = _FAST) -> Histogram:
    full = f"trainedmodel_puller_{name}_seconds"
    return Histogram(full, words, buckets=tuple(buckets), registry=REGISTRY)


# -- what happened --------------------------------------------------------------------------

DOWNLOADED_BYTES: Final = _counter(
    "downloaded_bytes", "Bytes received from stores, by URI scheme.", "scheme"
)
DOWNLOAD_SECONDS: Final = _seconds("download", "From the start of a download to a sealed version.")
LOAD_SECONDS: Final = _seconds("load", "From the start of publishing to the server's answer.")
TIME_TO_LOADED: Final = _seconds(
    "time_to_loaded",
    "From the first reading of a revision in the configuration until the server serves it.",
)
LOADS: Final = _counter(
    "loads", "Load requests to the server: loaded, failed, or undecided.", "outcome"
)
UNLOADS: Final = _counter(
    "unloads", "Unload requests to the server: unloaded, failed, or undecided.", "outcome"
)
FAILURES: Final = _counter(
    "failures", "Failed tries, by reason and stage; each is retried.", "reason", "stage"
)
RETRIES: Final = _counter("retries", "Tries after a failed one, by stage.", "stage")
SOURCE_LOOKS: Final = _counter(
    "source_looks",
    "Listings of failed models' sources: changed (retried at once), unchanged, failed, or late.",
    "outcome",
)
EVICTIONS: Final = _counter("evictions", "Kept versions deleted to free space or to keep limits.")
SERVER_RESTARTS: Final = _counter("server_restarts", "Detected restarts of the model server.")
REPORT_WRITES: Final = _counter(
    "report_writes", "Writes of the ModelReport: written, failed, or refused.", "outcome"
)
PASS_SECONDS: Final = _seconds("pass", "One pass of the loop, in seconds.", _PASS)
PLAN_SECONDS: Final = _seconds("plan", "The decisions of one pass, in seconds.", _PASS)

# -- what is --------------------------------------------------------------------------------

MODELS: Final = _gauge("models", "Models by state.", "state")
WAITING: Final = _gauge("waiting_models", "Models that wait for something, by reason.", "reason")
QUEUE: Final = _gauge(
    "queue_length", "Models that wait for a download slot or a load slot.", "queue"
)
IN_FLIGHT: Final = _gauge("in_flight", "Running actions, by stage.", "stage")
KEPT_VERSIONS: Final = _gauge(
    "kept_versions", "Whole versions on the volume outside of the served folder."
)
KEPT_BYTES: Final = _gauge("kept_bytes", "Bytes of the kept versions.")
SERVED_BYTES: Final = _gauge("served_bytes", "Bytes of the versions in the served folder.")
FREE_BYTES: Final = _gauge("volume_free_bytes", "Bytes that may still be written to the volume.")
VOLUME_IN_DOUBT: Final = _gauge("volume_in_doubt", "1 while the model volume cannot be read.")
UNDELETED: Final = _gauge("undeleted_trees", "Removed trees that could not be deleted yet.")
SERVER_REACHABLE: Final = _gauge("server_reachable", "1 while the server answers.")
CONFIG_IN_DOUBT: Final = _gauge(
    "config_in_doubt", "1 while the mounted configuration is not whole."
)
LAST_PASS: Final = _gauge(
    "last_pass_timestamp_seconds", "Time of the loop's last pass, in seconds since the epoch."
)
LEFT_BEHIND: Final = _gauge(
    "left_behind_calls",
    "Abandoned calls to stores, claims or DNS that have not returned.",
)
REPORT_BYTES: Final = _gauge("report_size_bytes", "Upper bound of the ModelReport's bytes in etcd.")
REPORT_LEVEL: Final = _gauge(
    "report_level", "Level of the ModelReport's size limit: 0 leaves out nothing, 8 whole models."
)
REPORT_LEFT_OUT: Final = _gauge(
    "report_left_out_models", "Models that the ModelReport leaves out for its size."
)
BUILD_INFO: Final = _gauge("build_info", "1; the version is the label.", "version")
BUILD_INFO.labels(version=VERSION).set(1)

_STAGES: Final = tuple(str(stage) for stage in Stage)


# -- the calls ------------------------------------------------------------------------------


def count_bytes(scheme: str, received: int) -> None:
    """Note bytes that a store sent."""
    DOWNLOADED_BYTES.labels(scheme=scheme if scheme in _SCHEMES else "other").inc(received)


def count_failure(reason: str, stage: str, attempt: int) -> None:
    """Note a failed try, the `attempt`-th in a row; from the second on it was a retry."""
    FAILURES.labels(reason=str(reason), stage=str(stage)).inc()
    if attempt > 1:
        RETRIES.labels(stage=str(stage)).inc()


class TimeToLoaded:
    """Times each revision from its first sight to its first `Loaded`.

    A model that a restarted server gets back is not timed a second time. A puller that restarts
    has forgotten, and times the models of its first configuration from its own start.
    """

    def __init__(self) -> None:
        self._seen: Mapping[str, ReportedModel] = {}
        self._began: dict[str, tuple[str | None, float]] = {}
        self._loaded: dict[str, str | None] = {}

    def note(self, models: Mapping[str, ReportedModel], now: float | None = None) -> None:
        """Look at what was reported after a pass; `now` is in seconds of a monotonic clock."""
        if models is self._seen:
            return
        now = time.monotonic() if now is None else now
        for model_id, model in models.items():
            if self._seen.get(model_id) is not model:
                self._note_one(model_id, model, now)
        for model_id in self._seen.keys() - models.keys():
            self._began.pop(model_id, None)
            self._loaded.pop(model_id, None)
        self._seen = models

    def _note_one(self, model_id: str, model: ReportedModel, now: float) -> None:
        revision = model.revision
        revision_then, began = self._began.get(model_id, (None, now))
        if model.state == State.LOADED:
            if revision_then == revision:
                TIME_TO_LOADED.observe(now - began)
            self._began.pop(model_id, None)
            self._loaded[model_id] = revision
        elif revision is not None and revision not in {revision_then, self._loaded.get(model_id)}:
            self._began[model_id] = (revision, now)


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """What the gauges are read off: copies and values that nothing changes any more."""

    models: Mapping[str, ReportedModel]
    observed: ObservedState
    plan: Plan
    is_reachable: bool
    last_pass: float


def observe(snapshot: MetricsSnapshot) -> None:
    """Set the gauges. Takes milliseconds with 10,000 models: meant for a thread."""
    _set_all(MODELS, "state", [str(state) for state in State], _states(snapshot.models.values()))
    waiting = Tally(str(item.reason) for item in snapshot.plan.deferred)
    _set_all(WAITING, "reason", [str(reason) for reason in Reason], waiting)
    # All that is queued waiting for a load slot, or for a download of its own or of another name.
    loads = len(snapshot.plan.queued_loads)
    QUEUE.labels(queue="loads").set(loads)
    QUEUE.labels(queue="downloads").set(waiting[str(Reason.QUEUED)] - loads)
    observed = snapshot.observed
    stages = _stages(observed.transfers.values(), observed.server_actions.values())
    _set_all(IN_FLIGHT, "stage", _STAGES, stages)
    _set_volume(observed.disk.values(), observed.free_bytes)
    VOLUME_IN_DOUBT.set(observed.volume_doubt is not None)
    UNDELETED.set(observed.undeleted)
    SERVER_REACHABLE.set(snapshot.is_reachable)
    LAST_PASS.set(snapshot.last_pass)


def render() -> bytes:
    """Return everything in Prometheus' text format."""
    return generate_latest(REGISTRY)


def _states(models: Iterable[ReportedModel]) -> Tally[str]:
    return Tally(str(model.state) for model in models)


def _stages(transfers: Iterable[Transfer], actions: Iterable[Stage]) -> Tally[str]:
    return Tally([*(str(transfer.stage) for transfer in transfers), *map(str, actions)])


def _set_all(gauge: Gauge, label: str, values: Iterable[str], counts: Tally[str]) -> None:
    for value in values:
        gauge.labels(**{label: value}).set(counts[value])


def _set_volume(held: Iterable[DiskModel], free: int | None) -> None:
    kept = kept_bytes = served_bytes = 0
    for disk in held:
        for revision, tree in disk.trees.items():
            if revision in disk.published:
                served_bytes += tree.size
            else:
                kept += 1
                kept_bytes += tree.size
    KEPT_VERSIONS.set(kept)
    KEPT_BYTES.set(kept_bytes)
    SERVED_BYTES.set(served_bytes)
    FREE_BYTES.set(float("nan") if free is None else free)
