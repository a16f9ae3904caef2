"""What the endpoints say, and that what pages, panels and alerts name of it exists."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families
from trainedmodel_contract import names
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.modelreport import ReportedModel
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller import metrics
from trainedmodel_puller.control.server_monitor import ServerMonitor
from trainedmodel_puller.core.plan import plan
from trainedmodel_puller.core.report import report_models
from trainedmodel_puller.core.state import (
    DesiredState,
    DiskModel,
    Failure,
    Limits,
    Plan,
    ServerState,
    ServerView,
    Stage,
    Transfer,
    Tree,
    WantedModel,
)
from trainedmodel_puller.drivers.base import ServerSettings
from trainedmodel_puller.drivers.files import FilesOnly
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.reporting.endpoints import Endpoints

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]


def wanted(name: str, revision: str = "2") -> WantedModel:
    uri = f"https://store/{name}?X-Amz-Signature=secret"
    return WantedModel(f"model-{name}", Entry(name=name, storage_uri=uri, revision=revision))


@dataclass
class Passes:
    """The part of a loop that is shown."""

    models: dict[str, ReportedModel] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    is_settled: bool = False
    is_all_loaded: bool = False
    last_pass: float = field(default_factory=time.monotonic)


class Bench:
    """Endpoints over a state that a test sets."""

    def __init__(self, root: Path) -> None:
        self.state = LiveState(jitter=lambda: 0.0)
        self.loop = Passes()
        self.server = FilesOnly(ServerSettings("", root, root))
        self.watch = ServerMonitor(self.server, self.state, 1.0)
        self.client: TestClient[Any, Any]
        self.ready_when = "settled"

    def passes(self, limits: Limits | None = None) -> None:
        """Plan and report, as a loop does, without carrying anything out."""
        observed, now = self.state.observed(), time.monotonic()
        self.loop.plan = plan(self.state.desired, observed, limits or Limits(), now)
        self.loop.models = report_models(self.state.desired, observed, self.loop.plan.deferred)

    async def open(self) -> None:
        endpoints = Endpoints(
            self.state, self.loop, self.watch, self.server, ready_when=self.ready_when
        )
        self.client = TestClient(TestServer(endpoints.application()))
        await self.client.start_server()

    async def get(self, path: str) -> tuple[int, str]:
        async with self.client.get(path) as answer:
            return answer.status, await answer.text()

    async def status(self, query: str = "") -> Json:
        document: Json = json.loads((await self.get(f"/status{query}"))[1])
        return document

    async def samples(self) -> dict[tuple[str, str], float]:
        """Return each sample by its name and the value of its only label."""
        _, text = await self.get("/metrics")
        return {
            (sample.name, "".join(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.open()
    yield made
    await made.client.close()


def furnish(bench: Bench) -> None:
    """Fill the state: one serves, one is fetched, one waiting for a load slot, one has failed."""
    state = bench.state
    state.desired = DesiredState(
        models={name: wanted(name) for name in ("a", "b", "c", "d")},
        config_digest="d1",
        is_known=True,
    )
    trees = {"1": Tree(100), "2": Tree(200)}
    state.disk = {
        "a": DiskModel(id="model-a", trees=trees, published=frozenset({"2"}), loaded="2"),
        "c": DiskModel(id="model-c", trees={"2": Tree(50)}),
    }
    state.server = ServerView(True, {"a": ServerState.READY})
    state.transfers = {
        "b": Transfer("2", received_bytes=250, total_bytes=1000, progressed_at=time.monotonic())
    }
    state.server_actions = {"e": Stage.LOAD}
    state.free_bytes = 12345
    bench.passes(Limits(max_downloads=1, max_loads=1))


async def test_a_loop_that_stands_still_is_not_healthy(bench: Bench) -> None:
    assert (await bench.get("/healthz"))[0] == 200
    bench.loop.last_pass = time.monotonic() - 61
    code, words = await bench.get("/healthz")
    assert code == 503
    assert words.startswith("no pass for 61")


@pytest.mark.parametrize("ready_when", names.READY_WHEN)
async def test_each_mode_of_readiness_looks_at_its_own_moment(
    tmp_path: Path, ready_when: str
) -> None:
    bench = Bench(tmp_path)
    bench.ready_when = ready_when
    await bench.open()
    try:
        furnish(bench)
        code, words = await bench.get("/readyz")
        assert code == 503
        assert ("1 Downloading" in words) == (ready_when != "server")
        bench.loop.is_settled = ready_when == "settled"
        bench.loop.is_all_loaded = ready_when == "all"
        bench.watch.is_reachable = ready_when == "server"
        assert await bench.get("/readyz") == (200, "ok\n")
        bench.loop.is_settled = ready_when != "settled"
        bench.loop.is_all_loaded = ready_when != "all"
        bench.watch.is_reachable = ready_when != "server"
        assert (await bench.get("/readyz"))[0] == 503
    finally:
        await bench.client.close()


async def test_status_tells_of_each_model_what_is_wanted_what_serves_and_what_is_there(
    bench: Bench,
) -> None:
    furnish(bench)
    document = await bench.status()
    models = document["models"]
    assert models["model-a"] == {
        "state": "Loaded",
        "name": "a",
        "revision": "2",
        "loadedRevision": "2",
        "storageUri": "https://store/a",
        "onDisk": [
            {"revision": "1", "bytes": 100, "isPublished": False},
            {"revision": "2", "bytes": 200, "isPublished": True},
        ],
    }
    assert models["model-b"]["download"] == {
        "revision": "2",
        "stage": "Download",
        "receivedBytes": 250,
        "totalBytes": 1000,
        "percent": 25,
    }
    assert models["model-c"]["waitsFor"][0]["reason"] == "Queued"
    assert document["states"] == {"Downloading": 1, "Loaded": 1, "Waiting": 2}
    assert document["volume"]["freeBytes"] == 12345
    assert document["volume"]["keptVersions"] == 2
    assert document["config"]["digest"] == "d1"
    assert document["server"]["kind"] == "none"


@pytest.mark.parametrize(("kind", "mark"), [("tfs", True), ("triton", None)])
async def test_status_marks_an_experimental_driver(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str, mark: bool | None
) -> None:
    monkeypatch.setattr(FilesOnly, "kind", kind)
    assert (await bench.status())["server"].get("experimental") is mark


async def test_status_tells_the_plan_in_words(bench: Bench) -> None:
    furnish(bench)
    told = (await bench.status())["plan"]
    assert [(item["action"], item["name"]) for item in told["underWay"]] == [
        ("Download", "b"),
        ("Load", "e"),
    ]
    assert {item["name"]: item["message"] for item in told["waiting"]} == {
        "c": "waiting for a load slot",
        "d": "waiting for a download slot",
    }
    bench.state.transfers.clear()
    bench.state.server_actions.clear()
    bench.passes()
    told = (await bench.status())["plan"]
    assert "download https://store/b as revision 2" in {item["words"] for item in told["next"]}


async def test_status_says_until_when_a_failed_model_waits(bench: Bench) -> None:
    furnish(bench)
    document = bench.state.desired.models["d"]
    failure_until = time.monotonic() + 30
    bench.state.failures[("d", "2")] = failure(document.entry, failure_until)
    bench.passes()
    model = (await bench.status("?model=d"))["models"]["model-d"]
    assert (model["state"], model["reason"], model["attempt"]) == ("Failed", "SourceError", 4)
    assert 20 < model["waitsFor"][0]["inSeconds"] <= 30


def failure(entry: Entry, until: float) -> Failure:
    return Failure(
        stage=Stage.DOWNLOAD,
        reason=Reason.SOURCE_ERROR,
        message="503",
        count=4,
        until=until,
        failed_time=100.0,
        next_retry_time=130.0,
        entry=entry,
    )


async def test_one_model_can_be_asked_for_by_either_name(bench: Bench) -> None:
    furnish(bench)
    for name in ("a", "model-a"):
        assert list((await bench.status(f"?model={name}"))["models"]) == ["model-a"]
    assert (await bench.get("/status?model=nobody"))[0] == 404


async def test_no_signature_is_shown(bench: Bench) -> None:
    furnish(bench)
    assert "secret" not in (await bench.get("/status"))[1]
    bench.state.transfers.clear()
    bench.passes()
    assert "secret" not in (await bench.get("/status"))[1]


async def test_the_gauges_are_of_this_moment(bench: Bench) -> None:
    furnish(bench)
    bench.watch.is_reachable = True
    samples = await bench.samples()
    prefix = "trainedmodel_puller_"
    assert samples[prefix + "models", "Loaded"] == 1
    assert samples[prefix + "models", "Failed"] == 0
    assert samples[prefix + "queue_length", "loads"] == 1
    assert samples[prefix + "queue_length", "downloads"] == 1
    assert samples[prefix + "in_flight", "Download"] == 1
    assert samples[prefix + "in_flight", "Load"] == 1
    assert samples[prefix + "kept_bytes", ""] == 150
    assert samples[prefix + "served_bytes", ""] == 200
    assert samples[prefix + "volume_free_bytes", ""] == 12345
    assert samples[prefix + "server_reachable", ""] == 1
    bench.state.transfers.clear()
    assert (await bench.samples())[prefix + "in_flight", "Download"] == 0


async def test_labels_do_not_grow_with_models_or_schemes(bench: Bench) -> None:
    before = len(await bench.samples())
    for n in range(50):
        metrics.count_bytes(f"scheme{n}", 1)
    bench.loop.models = {f"m{n}": ReportedModel(state="Loaded") for n in range(1000)}
    assert len(await bench.samples()) <= before + 2


async def test_failures_and_retries_are_counted_apart(bench: Bench) -> None:
    before = await bench.samples()
    metrics.count_failure(Reason.SOURCE_ERROR, Stage.VERIFY, 1)
    metrics.count_failure(Reason.SOURCE_ERROR, Stage.VERIFY, 2)
    after = await bench.samples()

    def grown(name: str, label: str) -> float:
        key = (f"trainedmodel_puller_{name}_total", label)
        return after[key] - before.get(key, 0)

    assert grown("failures", "SourceErrorVerify") == 2
    assert grown("retries", "Verify") == 1


async def test_the_time_to_loaded_is_that_of_the_revision(bench: Bench) -> None:
    before = await bench.samples()
    timed = metrics.TimeToLoaded()
    timed.note({"a": said("Waiting", "1"), "old": said("Loaded", "1")}, 0.0)
    timed.note({"a": said("Downloading", "1"), "old": said("Loaded", "1")}, 10.0)
    timed.note({"a": said("Waiting", "2"), "old": said("Loaded", "1")}, 100.0)
    timed.note({"a": said("Loaded", "2"), "old": said("Loaded", "1")}, 103.0)
    timed.note({"a": said("Waiting", "2")}, 200.0)  # the server has restarted
    timed.note({"a": said("Loaded", "2")}, 300.0)
    after = await bench.samples()
    name = "trainedmodel_puller_time_to_loaded_seconds"
    assert after[f"{name}_count", ""] - before[f"{name}_count", ""] == 1
    assert after[f"{name}_sum", ""] - before[f"{name}_sum", ""] == 3.0


def said(state: str, revision: str) -> ReportedModel:
    return ReportedModel(state=state, revision=revision)


# -- what is named exists -------------------------------------------------------------------


def sample_names() -> set[str]:
    """Return all names that a query may use."""
    names: set[str] = set()
    for family in metrics.REGISTRY.collect():
        suffixes = {
            "counter": ("_total",),
            "histogram": ("_bucket", "_sum", "_count"),
        }.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


@pytest.mark.parametrize(
    "page",
    [
        "deploy/dashboards/puller.json",
        "deploy/alerts/puller.yaml",
        "docs/metrics.md",
    ],
)
def test_each_metric_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"\btrainedmodel_puller_\w+", (ROOT / page).read_text()))
    assert named
    assert named <= sample_names() | histograms(), named - sample_names()


def histograms() -> set[str]:
    """Return names as a table shows them: of a histogram without its suffix."""
    return {family.name for family in metrics.REGISTRY.collect() if family.type == "histogram"}


def test_the_page_of_metrics_lists_each_with_its_labels() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = dict(re.findall(r"^\| `(trainedmodel_puller_\w+)` \| [a-z]+ \| (.*?) \|", page, re.M))
    for family in metrics.REGISTRY.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert set(re.findall(r"`(\w+)`", rows[name])) >= labels, name
