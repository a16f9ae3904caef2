"""Drivers that no test has run against the real server are marked wherever a user meets them."""

from __future__ import annotations

import asyncio
import copy
import pkgutil
import re
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner
from support.puller.driver_builders import server_settings
from support.puller.reporter_bench import Bench, FakeApi, Json, follow
from trainedmodel_contract.modelreport import ModelReport
from trainedmodel_devkit import servers
from trainedmodel_puller.cli.command import main
from trainedmodel_puller.control.server_monitor import ServerMonitor
from trainedmodel_puller.drivers.factory import (
    EXPERIMENTAL,
    SERVER_KINDS,
    is_experimental,
    make_server,
)
from trainedmodel_puller.drivers.files import FilesOnly
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.reporting import reporter
from trainedmodel_puller.reporting.report_documents import server_part

PAGE = Path(__file__).resolve().parents[2] / "docs" / "puller.md"


def test_the_kinds_without_a_real_server_in_the_tests_are_experimental() -> None:
    launched = {module.name for module in pkgutil.iter_modules(servers.__path__)}
    assert {kind for kind in SERVER_KINDS if kind not in launched} - {"none"} == EXPERIMENTAL


def test_help_names_the_experimental_kinds() -> None:
    text = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    found = re.search(r"Experimental, never tested against a real server: ([^.]*)\.", text)
    assert found is not None
    assert set(found[1].split(", ")) == EXPERIMENTAL


def test_the_page_marks_the_experimental_kinds() -> None:
    rows = re.findall(r"^\| `(\w+)` \(experimental\) \|", PAGE.read_text(), re.MULTILINE)
    assert set(rows) == EXPERIMENTAL


@pytest.mark.parametrize("kind", SERVER_KINDS)
def test_a_report_marks_an_experimental_driver_and_no_other(kind: str, tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logged:
        server = make_server(kind, server_settings(folder=tmp_path))
    part = server_part(server, ServerMonitor(server, LiveState(jitter=lambda: 0.0), 1.0)).to_dict()
    assert part.get("experimental") == (True if is_experimental(kind) else None)
    events = [(line["event"], line["server"]) for line in logged]
    assert events == ([("driver_experimental", kind)] if is_experimental(kind) else [])


class OldApi(FakeApi):
    """An API server whose CRD is older than the mark: it drops the unknown field."""

    async def read(self, name: str) -> Json | None:
        document = copy.deepcopy(await super().read(name))
        if document is not None:
            document["server"].pop("experimental", None)
        return document


async def test_a_crd_that_drops_the_mark_causes_one_write_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "spacing_s", lambda size, sent: 0.01)
    monkeypatch.setattr(FilesOnly, "kind", "tfs")
    first, second = Bench(tmp_path), Bench(tmp_path)
    first.api = first.reporter._client = OldApi()

    async def write() -> None:
        first.say(a="Loaded")
        await first.until(lambda: bool(first.told()))

    await follow(first, write)
    assert first.api.document is not None
    report = ModelReport.model_validate(first.api.document)
    assert report.server is not None
    assert report.server.experimental is True

    second.api = second.reporter._client = first.api

    async def go_on() -> None:
        for _ in range(10):
            second.say(a="Loaded")
            await asyncio.sleep(0.02)
        second.say(a="Loaded", b="Loaded")
        await second.until(lambda: len(second.told()) == 2)

    await follow(second, go_on)
    assert len(second.api.calls) <= 3  # created, the mark written again, the second model
