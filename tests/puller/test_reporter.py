"""The ModelReport follows what the loop knows: small patches, and back after any loss."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trainedmodel_contract.modelreport import ModelReport, ReportedModel
from trainedmodel_puller import reporters
from trainedmodel_puller.core.state import DesiredState, Limits
from trainedmodel_puller.disk import Disk
from trainedmodel_puller.drivers.files import FilesOnly
from trainedmodel_puller.kube import ReportClient, ReportGone
from trainedmodel_puller.loop import Loop
from trainedmodel_puller.reporters import KubernetesReporter
from trainedmodel_puller.serverwatch import ServerWatch
from trainedmodel_puller.settings import PodIdentity
from trainedmodel_puller.state import LiveState
from trainedmodel_puller.volume import Volume

Json = dict[str, Any]


class FakeApi(ReportClient):
    """One object in memory, with the API's merge patch and the faults that a test asks for."""

    def __init__(self) -> None:
        self.document: Json | None = None
        self.calls: list[tuple[str, Json]] = []
        self.fails = 0

    async def read(self, name: str) -> Json | None:
        self._fail()
        return copy.deepcopy(self.document)

    async def create(self, document: Json) -> None:
        self._fail()
        self.calls.append(("create", document))
        self.document = copy.deepcopy(document)

    async def patch(self, name: str, patch: Json) -> None:
        self._fail()
        if self.document is None:
            raise ReportGone(name)
        self.calls.append(("patch", patch))
        merge(self.document, patch)

    def _fail(self) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError("the API server is away")


def merge(document: Json, patch: Json) -> None:
    for key, value in patch.items():
        if value is None:
            document.pop(key, None)
        elif isinstance(value, dict):
            merge(document.setdefault(key, {}), value)
        else:
            document[key] = value


class Bench:
    """A reporter over a loop whose words a test sets."""

    def __init__(self, root: Path) -> None:
        self.api = FakeApi()
        self.state = LiveState(chance=lambda: 0.0)
        server = FilesOnly(root / "models")
        volume = Volume(root / "models", root / "state")
        self.loop = Loop(root, self.state, Disk(volume, self.state), Limits(), 1.0)
        identity = PodIdentity("pod-0", "uid-1", "ns", "tabular", root)
        watch = ServerWatch(server, self.state, 1.0)
        parts = (self.state, self.loop, watch, server)
        self.reporter = KubernetesReporter(identity, self.api, parts)

    def say(self, **states: str) -> None:
        self.loop.models = {name: ReportedModel(state=state) for name, state in states.items()}
        for listener in self.loop.on_pass:
            listener()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.01)

    def told(self) -> dict[str, str]:
        models = (self.api.document or {}).get("models", {})
        return {name: model["state"] for name, model in models.items()}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(reporters, "_SPACING_S", 0.01)
    monkeypatch.setattr(reporters, "_RETRY_S", (0.01,))
    return Bench(tmp_path)


async def follow(bench: Bench, act: Callable[[], Any]) -> None:
    running = asyncio.create_task(bench.reporter.run())
    try:
        await act()
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_it_is_created_with_its_pod_as_owner(bench: Bench) -> None:
    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: bench.told() == {"a": "Loaded"})

    await follow(bench, act)
    assert bench.api.document is not None
    report = ModelReport.model_validate(bench.api.document)
    assert report.pod_uid == "uid-1"
    assert report.inference_service == "tabular"


async def test_a_change_is_one_small_patch(bench: Bench) -> None:
    async def act() -> None:
        bench.say(a="Loaded", b="Downloading", c="Loaded")
        await bench.until(lambda: len(bench.told()) == 3)
        bench.say(a="Loaded", b="Loaded")
        await bench.until(lambda: bench.told() == {"a": "Loaded", "b": "Loaded"})

    await follow(bench, act)
    assert [kind for kind, _ in bench.api.calls] == ["create", "patch"]
    assert bench.api.calls[1][1] == {"models": {"b": {"state": "Loaded"}, "c": None}}


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
        "metadata": {"name": "pod-0", "ownerReferences": [owner]},
        "models": models,
    }

    async def act() -> None:
        bench.say(a="Loaded")
        await bench.until(lambda: bench.told() == {"a": "Loaded"})

    await follow(bench, act)
    patches = [patch for kind, patch in bench.api.calls if kind == "patch"]
    assert patches[0]["models"] == {"gone": None}


async def test_the_report_of_a_dead_pod_of_the_same_name_is_taken_over(bench: Bench) -> None:
    owner = {"kind": "Pod", "name": "pod-0", "uid": "uid-dead"}
    bench.api.document = {"metadata": {"name": "pod-0", "ownerReferences": [owner]}}

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
