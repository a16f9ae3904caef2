"""A reporter over an API server in memory, and over a loop whose words a test sets."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainedmodel_contract.modelreport import ReportedModel
from trainedmodel_devkit.waiting import until
from trainedmodel_puller.control.server_monitor import ServerMonitor
from trainedmodel_puller.drivers.base import ServerSettings
from trainedmodel_puller.drivers.files import FilesOnly
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.reporting.report_client import (
    ReportClient,
    ReportConflict,
    ReportGone,
    ReportRefused,
)
from trainedmodel_puller.reporting.reporter import KubernetesReporter
from trainedmodel_puller.settings import PodIdentity

Json = dict[str, Any]


class FakeApi(ReportClient):
    """One object in memory, with the API's conflicts and the faults that a test asks for."""

    def __init__(self) -> None:
        self.document: Json | None = None
        self.calls: list[tuple[str, Json]] = []
        self.reads = 0
        self.fails = 0
        self.most = 10**9

    async def read(self, name: str) -> Json | None:
        self._fail()
        self.reads += 1
        return copy.deepcopy(self.document)

    async def create(self, document: Json) -> str:
        self._fail()
        if self.document is not None:
            raise ReportConflict("409 it exists")
        self.calls.append(("create", document))
        return self._store(copy.deepcopy(document))

    async def replace(self, document: Json) -> str:
        self._fail()
        if self.document is None:
            raise ReportGone(document["metadata"]["name"])
        if document["metadata"]["resourceVersion"] != self.document["metadata"]["resourceVersion"]:
            raise ReportConflict("409 the object has been modified")
        changes = difference(self.document, document)
        changes.pop("metadata", None)
        self.calls.append(("change" if changes else "beat", changes or document["metadata"]))
        return self._store(copy.deepcopy(document))

    def _store(self, document: Json) -> str:
        size = len(json.dumps(document))
        if size > self.most:
            raise ReportRefused(413, f"{size} bytes", is_too_large=True)
        self.document = document
        version = str(len(self.calls))
        document["metadata"]["resourceVersion"] = version
        return version

    def _fail(self) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError("the API server is away")


def difference(before: Json, after: Json) -> Json:
    """Return the merge patch from one document to another."""
    changes: Json = dict.fromkeys(before.keys() - after.keys())
    for key, value in after.items():
        found = before.get(key)
        if isinstance(found, dict) and isinstance(value, dict):
            if inner := difference(found, value):
                changes[key] = inner
        elif found != value:
            changes[key] = value
    return changes


@dataclass
class Passes:
    """The part of a loop that a reporter sees."""

    models: dict[str, ReportedModel] = field(default_factory=dict)
    on_pass: list[Callable[[], None]] = field(default_factory=list)


class Bench:
    """A reporter over a loop whose words a test sets."""

    def __init__(self, root: Path) -> None:
        self.api = FakeApi()
        self.state = LiveState(jitter=lambda: 0.0)
        server = FilesOnly(ServerSettings("", root / "models", root / "models"))
        self.loop = Passes()
        identity = PodIdentity("pod-0", "uid-1", "ns", "tabular", root)
        watch = ServerMonitor(server, self.state, 1.0)
        parts = (self.state, self.loop, watch, server)
        self.reporter = KubernetesReporter(identity, self.api, parts)

    def say(self, **states: str) -> None:
        self.tell({name: ReportedModel(state=state) for name, state in states.items()})

    def tell(self, models: dict[str, ReportedModel]) -> None:
        self.loop.models = models
        for listener in self.loop.on_pass:
            listener()

    def changes(self) -> list[Json]:
        """Return what each write changed of the report, but for its metadata."""
        return [change for kind, change in self.api.calls if kind == "change"]

    def beats(self) -> list[Json]:
        """Return the metadata of each write that changed nothing else."""
        return [metadata for kind, metadata in self.api.calls if kind == "beat"]

    async def until(self, condition: Callable[[], bool]) -> None:
        await until(condition, every_s=0.01)

    def told(self) -> dict[str, str]:
        models = (self.api.document or {}).get("models", {})
        return {name: model["state"] for name, model in models.items()}


async def follow(bench: Bench, act: Callable[[], Any]) -> None:
    running = asyncio.create_task(bench.reporter.run())
    try:
        await act()
    finally:
        running.cancel()
        await asyncio.wait({running})
