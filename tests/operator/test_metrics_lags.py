"""What is measured, on which clock, and how little is remembered for it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from support.operator.builders import KEY, NOW, document, one
from trainedmodel_operator.api.report_cache import ReportCache
from trainedmodel_operator.core.latency import (
    MOST_MODELS,
    LatencyTracker,
    PropagationTracker,
    StateCounts,
)
from trainedmodel_operator.core.plan import plan
from trainedmodel_operator.core.state import Gathered, ServiceKey
from trainedmodel_operator.observability.lag_observer import Observer
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.watch.handlers import EventHandlers

ROOT = Path(__file__).resolve().parents[2]


def test_a_change_is_seen_once_and_ready_once() -> None:
    changes = LatencyTracker()
    changes.heard("iris", 1, 10.0)
    changes.heard("iris", 1, 99.0)
    assert changes.seen("iris", 1, 10.5) == 0.5
    assert changes.seen("iris", 1, 11.0) is None
    assert changes.ready("iris", 1, 12.0) == 2.0
    assert changes.ready("iris", 1, 13.0) is None


def test_an_older_generation_proves_nothing_about_a_newer_change() -> None:
    changes = LatencyTracker()
    changes.heard("iris", 2, 10.0)
    assert changes.seen("iris", 1, 11.0) is None
    assert changes.ready("iris", 1, 11.0) is None
    changes.heard("iris", 3, 20.0)
    assert changes.ready("iris", 3, 21.0) == 1.0


def test_a_model_that_nobody_heard_of_is_not_measured() -> None:
    assert LatencyTracker().seen("iris", 1, 1.0) is None


def test_at_most_so_many_models_are_followed() -> None:
    changes = LatencyTracker()
    for number in range(MOST_MODELS + 100):
        changes.heard(f"uid-{number}", 1, 0.0)
    assert len(changes) == MOST_MODELS
    changes.gone(f"uid-{MOST_MODELS}")
    assert len(changes) == MOST_MODELS - 1


def test_a_pod_is_behind_since_the_oldest_shard_that_it_has_not_seen() -> None:
    behind = PropagationTracker()
    assert behind.update(KEY, {"a", "b"}, {"a", "b"}, 1.0) == []
    assert behind.count == 2
    assert behind.update(KEY, {"a", "b"}, {"a", "b"}, 2.0) == []
    assert behind.update(KEY, {"b"}, {"a", "b"}, 4.0) == [3.0]
    assert behind.update(KEY, set(), set(), 9.0) == [], "b has ended, it did not catch up"
    assert behind.count == 0


def test_models_are_counted_by_namespace_and_state_over_all_services() -> None:
    tally = StateCounts()
    other = ServiceKey("demo", "other")
    assert dict(tally.update(KEY, ["Loaded", "Loaded", "Failed"])) == {
        ("demo", "Loaded"): 2,
        ("demo", "Failed"): 1,
    }
    assert dict(tally.update(other, ["Loaded"])) == {("demo", "Loaded"): 3}
    assert dict(tally.update(KEY, ["Loaded"])) == {("demo", "Loaded"): 2, ("demo", "Failed"): 0}
    assert dict(tally.update(KEY, [])) == {("demo", "Loaded"): 1}


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"trainedmodel_operator_{name}", labels)


@pytest.mark.looptime
async def test_passes_and_statuses_become_samples_and_the_last_model_ends_its_series() -> None:
    metrics = Metrics()
    observer = Observer(metrics)
    model = one()
    observer.model_event("ADDED", model.uid, model.generation)
    gathered = Gathered(KEY, models=(model,))
    observer.pass_made(gathered, plan(gathered, NOW))
    assert sample(metrics, "seen_seconds_count") == 1
    assert sample(metrics, "models", namespace="demo", state="Pending") == 1
    ready = {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}
    observer.status_written(model.uid, {**ready, "observedGeneration": 0})
    assert sample(metrics, "ready_seconds_count") == 0
    observer.status_written(model.uid, ready)
    assert sample(metrics, "ready_seconds_count") == 1
    nothing = Gathered(KEY)
    observer.pass_made(nothing, plan(nothing, NOW))
    assert sample(metrics, "models", namespace="demo", state="Pending") is None


@pytest.mark.looptime
async def test_only_the_first_event_of_a_generation_starts_the_clock() -> None:
    metrics = Metrics()
    observer = Observer(metrics)
    handlers = EventHandlers(lambda key, trigger: None, ReportCache(), observer=observer)
    ready = {"observedGeneration": 2, "conditions": [{"type": "Ready", "status": "True"}]}
    handlers.model_event({"type": None, "object": document("old")})
    handlers.model_event({"type": "MODIFIED", "object": document("iris", generation=2)})
    await asyncio.sleep(3)
    handlers.model_event({"type": "MODIFIED", "object": document("iris", generation=2)})
    for uid in ("uid-iris", "uid-old"):
        observer.status_written(uid, ready)
    handlers.model_event({"type": "MODIFIED", "object": document("iris", generation=2)})
    observer.status_written("uid-iris", ready)
    assert sample(metrics, "ready_seconds_count") == 1, "the listed one is not measured"
    assert sample(metrics, "ready_seconds_sum") == pytest.approx(3.0, abs=0.01)


def families() -> list[Any]:
    return list(Metrics().registry.collect())


def sample_names() -> set[str]:
    suffixes = {"counter": ("_total",), "histogram": ("", "_bucket", "_sum", "_count")}
    return {
        family.name + suffix for family in families() for suffix in suffixes.get(family.type, ("",))
    }


@pytest.mark.parametrize(
    "page", ["deploy/dashboards/operator.json", "deploy/alerts/operator.yaml", "docs/metrics.md"]
)
def test_each_metric_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"\btrainedmodel_operator_\w+", (ROOT / page).read_text()))
    assert named
    assert named <= sample_names(), named - sample_names()


def test_the_page_of_metrics_lists_each_with_its_labels() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = dict(re.findall(r"^\| `(trainedmodel_operator_\w+)` \| [a-z]+ \| (.*?) \|", page, re.M))
    collectors = Metrics().registry._names_to_collectors
    for family in families():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = getattr(collectors[family.name], "_labelnames", ())
        assert tuple(re.findall(r"`(\w+)`", rows[name])) == labels, name
