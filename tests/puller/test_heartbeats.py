"""Heartbeats: a report that nothing changes still says that its puller lives, and costs little."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.puller.reporter_bench import Bench, follow
from trainedmodel_contract import names
from trainedmodel_contract.modelreport import ModelReport, heartbeat_period
from trainedmodel_puller.reporting import reporter


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(reporter, "spacing_s", lambda size, sent: 0.01)
    monkeypatch.setattr(reporter, "_RETRY_S", (0.01, 0.01))
    monkeypatch.setattr(reporter, "_REFUSED_S", 0.01)
    return Bench(tmp_path)


def beats_fast(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.01) -> None:
    monkeypatch.setattr(reporter, "heartbeat_s", lambda size: seconds)


async def test_a_report_is_created_with_a_heartbeat_and_the_promise_of_the_next(
    bench: Bench,
) -> None:
    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: bool(bench.told()))

    await follow(bench, act)
    report = ModelReport.model_validate(bench.api.document)
    assert heartbeat_period(report.metadata.annotations) == timedelta(seconds=60)
    written = datetime.fromisoformat(report.metadata.annotations[names.HEARTBEAT_ANNOTATION])
    assert abs(datetime.now(UTC) - written) < timedelta(seconds=20)


async def test_while_nothing_changes_a_heartbeat_is_all_that_is_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats_fast(monkeypatch)

    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: len(bench.beats()) > 3)

    await follow(bench, act)
    assert bench.changes() == []
    assert bench.api.reads == 1, "a heartbeat makes sure of the report by itself"


async def test_a_write_is_as_good_as_a_heartbeat(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats_fast(monkeypatch, 3600)

    async def act() -> None:
        for state in ("Waiting", "Loading", "Loaded"):
            bench.say(a=state)
            await bench.until(lambda state=state: bench.told() == {"a": state})  # type: ignore[misc]

    await follow(bench, act)
    assert bench.beats() == []


async def test_a_report_of_an_older_puller_gets_its_promise_at_once(bench: Bench) -> None:
    owner = {"kind": "Pod", "name": "pod-0", "uid": "uid-1"}
    bench.api.document = {
        "metadata": {"name": "pod-0", "resourceVersion": "7", "ownerReferences": [owner]},
        "models": {"a": {"state": "Loaded"}},
    }

    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: "annotations" in (bench.api.document or {})["metadata"])

    await follow(bench, act)
    report = ModelReport.model_validate(bench.api.document)
    assert heartbeat_period(report.metadata.annotations) == timedelta(seconds=60)


async def test_a_heartbeat_finds_what_somebody_else_wrote(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats_fast(monkeypatch)

    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: bool(bench.beats()))
        assert bench.api.document is not None
        bench.api.document["models"] = {"a": {"state": "Failed"}}
        bench.api.document["metadata"]["resourceVersion"] = "another"
        await bench.until(lambda: bench.told() == {"a": "Loaded"})

    await follow(bench, act)


async def test_a_heartbeat_of_a_deleted_report_brings_it_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats_fast(monkeypatch)

    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: bool(bench.beats()))
        bench.api.document = None
        await bench.until(lambda: bench.told() == {"a": "Loaded"})

    await follow(bench, act)


def test_the_larger_a_report_is_the_rarer_its_heartbeats_are() -> None:
    assert reporter.heartbeat_s(2) == 60
    assert reporter.heartbeat_s(120_000) == 60
    assert reporter.heartbeat_s(310_000) == 155
    assert reporter.heartbeat_s(1_350_000) == 675
