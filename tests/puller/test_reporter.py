"""The ModelReport follows what the loop knows: small patches, and back after any loss."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
import structlog
from support.puller.reporter_bench import Bench, follow
from trainedmodel_contract.modelreport import ModelReport, ReportedModel
from trainedmodel_puller.core.state import DesiredState
from trainedmodel_puller.reporting import reporter


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(reporter, "spacing_s", lambda size, sent: 0.01)
    monkeypatch.setattr(reporter, "_RETRY_S", (0.01, 0.01))
    monkeypatch.setattr(reporter, "_REFUSED_S", 0.01)
    return Bench(tmp_path)


async def test_it_is_created_with_its_pod_as_owner(bench: Bench) -> None:
    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: bench.told() == {"a": "Loaded"})

    await follow(bench, act)
    assert bench.api.document is not None
    report = ModelReport.model_validate(bench.api.document)
    assert report.pod_uid == "uid-1"
    assert report.inference_service == "tabular"


async def test_a_change_is_one_write(bench: Bench) -> None:
    async def act() -> None:
        bench.say(a="Loaded", b="Downloading", c="Loaded")
        await bench.until(lambda: len(bench.told()) == 3)
        bench.say(a="Loaded", b="Loaded")
        await bench.until(lambda: bench.told() == {"a": "Loaded", "b": "Loaded"})

    await follow(bench, act)
    assert [kind for kind, _ in bench.api.calls] == ["create", "change"]
    assert bench.changes() == [{"models": {"b": {"state": "Loaded"}, "c": None}}]


async def test_nothing_new_is_not_written(bench: Bench) -> None:
    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: bool(bench.told()))
        for _ in range(5):
            bench.say(a="Loaded")
            await asyncio.sleep(0.02)

    await follow(bench, act)
    assert len(bench.api.calls) == 1


async def test_it_goes_on_from_what_an_earlier_life_wrote(bench: Bench) -> None:
    owner = {"kind": "Pod", "name": "pod-0", "uid": "uid-1"}
    models = {"a": {"state": "Loaded"}, "gone": {"state": "Failed", "reason": "X"}}
    bench.api.document = {
        "metadata": {"name": "pod-0", "resourceVersion": "7", "ownerReferences": [owner]},
        "models": models,
    }

    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: bench.told() == {"a": "Loaded"})

    await follow(bench, act)
    assert bench.changes()[0]["models"] == {"gone": None}


async def test_the_report_of_a_dead_pod_of_the_same_name_is_taken_over(bench: Bench) -> None:
    owner = {"kind": "Pod", "name": "pod-0", "uid": "uid-dead"}
    metadata = {"name": "pod-0", "resourceVersion": "7", "ownerReferences": [owner]}
    bench.api.document = {"metadata": metadata}

    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: bool(bench.told()))

    await follow(bench, act)
    assert ModelReport.model_validate(bench.api.document).pod_uid == "uid-1"


async def test_a_report_that_was_deleted_comes_back_with_the_next_change(bench: Bench) -> None:
    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: bool(bench.told()))
        bench.api.document = None
        bench.say(a="Failed")
        await bench.until(lambda: bench.told() == {"a": "Failed"})

    await follow(bench, act)


async def test_an_api_server_that_is_away_is_asked_again(bench: Bench) -> None:
    async def act() -> None:
        bench.api.fails = 3
        bench.say(a="Loaded")
        await bench.until(lambda: bench.told() == {"a": "Loaded"})
        bench.api.fails = 2
        bench.say(a="Failed")
        await bench.until(lambda: bench.told() == {"a": "Failed"})

    await follow(bench, act)


async def test_a_problem_with_the_configuration_comes_and_goes(bench: Bench) -> None:
    async def act() -> None:
        bench.state.desired = DesiredState(problem="shard 0 has no manifest", is_known=True)
        bench.say(a="Loaded")
        await bench.until(lambda: "configProblem" in (bench.api.document or {}))
        bench.state.desired = DesiredState(is_known=True, config_digest="d1")
        bench.say(a="Loaded")
        await bench.until(lambda: "configProblem" not in (bench.api.document or {}))

    await follow(bench, act)
    assert bench.api.document is not None
    assert bench.api.document["configDigest"] == "d1"


def failed(message: str) -> ReportedModel:
    return ReportedModel(state="Failed", revision="2", reason="SourceError", message=message)


async def test_while_nothing_changes_the_report_is_not_read_again(bench: Bench) -> None:
    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: bool(bench.told()))
        bench.say(a="Failed")
        await bench.until(lambda: bench.told() == {"a": "Failed"})

    await follow(bench, act)
    assert bench.api.reads == 1


async def test_a_change_over_what_somebody_else_wrote_puts_all_of_it_right(bench: Bench) -> None:
    async def act() -> None:
        bench.say(a="Loaded", b="Loaded")
        await bench.until(lambda: len(bench.told()) == 2)
        assert bench.api.document is not None
        bench.api.document["models"] = {"a": {"state": "Failed"}, "c": {"state": "Loaded"}}
        bench.api.document["metadata"]["resourceVersion"] = "another"
        bench.say(a="Loaded", b="Failed")
        await bench.until(lambda: bench.told() == {"a": "Loaded", "b": "Failed"})

    await follow(bench, act)
    models = {"a": {"state": "Loaded"}, "b": {"state": "Failed"}, "c": None}
    assert bench.changes() == [{"models": models}]


async def test_what_others_put_into_its_metadata_stays(bench: Bench) -> None:
    owner = {"kind": "Pod", "name": "pod-0", "uid": "uid-1"}
    theirs = {"labels": {"team": "a"}, "annotations": {"note": "b"}, "finalizers": ["c.d/e"]}
    bench.api.document = {
        "metadata": {"name": "pod-0", "resourceVersion": "7", "ownerReferences": [owner], **theirs}
    }

    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: bool(bench.told()))

    await follow(bench, act)
    assert bench.api.document is not None
    metadata = bench.api.document["metadata"]
    assert metadata["labels"] == theirs["labels"]
    assert metadata["finalizers"] == theirs["finalizers"]
    assert metadata["annotations"]["note"] == "b"


async def test_a_write_whose_answer_was_lost_is_found_out(bench: Bench) -> None:
    """The report has another version than the puller knows of, and its own words."""

    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: bool(bench.told()))
        assert bench.api.document is not None
        bench.api.document["models"] = {"a": {"state": "Failed"}}
        bench.api.document["metadata"]["resourceVersion"] = "landed"
        bench.say(a="Failed")
        await bench.until(lambda: bench.api.reads == 2)
        bench.say(a="Unloading")
        await bench.until(lambda: bench.told() == {"a": "Unloading"})

    await follow(bench, act)
    assert bench.changes() == [{"models": {"a": {"state": "Unloading"}}}]


async def test_progress_alone_is_told_now_and_then(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "_PROGRESS_S", 0.5)

    async def act() -> None:
        bench.say(a="Waiting")
        await bench.until(lambda: bool(bench.told()))
        for received in range(1, 40):
            bench.tell({"a": ReportedModel(state="Downloading", bytes=received)})
            await asyncio.sleep(0.005)
        await bench.until(lambda: bench.changes()[-1] == {"models": {"a": {"bytes": 39}}})

    await follow(bench, act)
    assert len(bench.changes()) < 10


async def test_a_change_is_not_held_back_by_progress(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "_PROGRESS_S", 3600)

    async def act() -> None:
        bench.say(a="Downloading", b="Waiting")
        await bench.until(lambda: len(bench.told()) == 2)
        bench.tell({"a": ReportedModel(state="Downloading", bytes=5), "b": failed("no")})
        await bench.until(lambda: bench.told()["b"] == "Failed")

    await follow(bench, act)
    assert bench.api.document is not None
    assert bench.api.document["models"]["a"]["bytes"] == 5


async def test_what_arrives_within_a_moment_is_told_in_one_write(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "_ARRIVAL_S", 3600)

    async def act() -> None:
        bench.say(old="Loaded")
        await bench.until(lambda: bench.told() == {"old": "Loaded"})
        for state in ("Waiting", "Downloading", "Verifying", "Loading", "Loaded"):
            bench.say(old="Loaded", new=state)
            await asyncio.sleep(0.02)
        await bench.until(lambda: bench.told().get("new") == "Loaded")

    await follow(bench, act)
    assert bench.changes() == [{"models": {"new": {"state": "Loaded"}}}]


async def test_who_stays_on_the_way_is_told_of_a_moment_later_whatever_moves(bench: Bench) -> None:
    """States that follow each other without rest do not put the news off for ever."""

    async def act() -> None:
        bench.say(old="Loaded")
        await bench.until(lambda: bench.told() == {"old": "Loaded"})
        began = time.monotonic()
        for turn in range(1000):
            bench.say(old="Loaded", new="Waiting" if turn % 2 else "Downloading")
            await asyncio.sleep(0.01)
            if "new" in bench.told():
                break
        assert turn < 999, "it is told although its state changes all the time"
        assert time.monotonic() - began > 0.15

    await follow(bench, act)


async def test_who_comes_and_goes_within_a_moment_is_not_told_of(bench: Bench) -> None:
    async def act() -> None:
        bench.say(old="Loaded")
        await bench.until(lambda: bench.told() == {"old": "Loaded"})
        bench.say(old="Loaded", new="Waiting")
        await asyncio.sleep(0.05)
        bench.say(old="Loaded")
        await asyncio.sleep(0.4)

    await follow(bench, act)
    assert bench.changes() == []


async def test_a_failure_waits_for_nobody_who_is_on_the_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "_ARRIVAL_S", 3600)
    monkeypatch.setattr(reporter, "_PROGRESS_S", 3600)

    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: bench.told() == {"a": "Loaded"})
        await asyncio.sleep(0.3)  # what a write is followed by
        bench.tell({"a": failed("no"), "b": ReportedModel(state="Downloading")})
        await bench.until(lambda: bench.told() == {"a": "Failed", "b": "Downloading"})

    await follow(bench, act)


async def test_a_report_that_is_refused_as_too_large_is_told_in_fewer_words(bench: Bench) -> None:
    models = {f"m{n:04d}": failed("x" * 300) for n in range(3000)}
    bench.api.most = 400_000

    async def act() -> None:
        with structlog.testing.capture_logs() as logs:
            bench.tell(models)
            await bench.until(lambda: len(bench.told()) == 3000)
        assert {"report_refused", "report_truncated"} <= {line["event"] for line in logs}
        refused = next(line for line in logs if line["event"] == "report_refused")
        assert refused["bytes"] > 400_000
        assert refused["models"] == 3000

    await follow(bench, act)
    assert len(json.dumps(bench.api.document)) <= 400_000


async def test_a_large_report_is_created_empty_and_filled_by_a_second_write(bench: Bench) -> None:
    models = {f"m{n:04d}": failed("x" * 300) for n in range(500)}

    async def act() -> None:
        bench.tell(models)
        await bench.until(lambda: len(bench.told()) == 500)

    await follow(bench, act)
    (create, created), *rest = bench.api.calls
    assert (create, created["models"]) == ("create", {})
    assert [kind for kind, _ in rest] == ["change"]
