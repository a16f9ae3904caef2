"""One line a decision, one form for all who speak, and silence where nothing was done."""

from __future__ import annotations

import asyncio
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from support.operator.builders import document
from support.operator.fake_kube import FakeKube, Operator
from trainedmodel_operator.core.pacing.windows import Trigger
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.observability.logs import configure_logs
from trainedmodel_operator.settings import Settings

KEY = ServiceKey("demo", "tabular")


@pytest.fixture
def as_shipped() -> Iterator[None]:
    """Log as the operator does, and put everything back."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    configure_logs(Settings())
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    for name in ("kopf", "asyncio", "aiohttp.access", "kubernetes"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.usefixtures("as_shipped")
def test_ours_kopfs_and_pythons_own_words_have_one_form(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs(Settings())
    structlog.get_logger().info("shard_written", key="demo/tabular", change="+1 entries")
    about = {"k8s_ref": {"namespace": "demo", "name": "iris"}}
    kopf = logging.getLogger("kopf.objects")
    kopf.info("its inner life")
    try:
        raise ValueError("broken\nin two lines")
    except ValueError:
        kopf.warning("a watch failed", exc_info=True, extra=about)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)  # it may be on already, for another's `showwarning`
        logging.captureWarnings(capture=True)
        warnings.warn_explicit("old", DeprecationWarning, "file.py", 1)
        logging.captureWarnings(capture=False)
    ours, theirs, python = lines(capsys)
    assert ours["event"] == "shard_written"
    assert (ours["key"], ours["change"], ours["level"]) == ("demo/tabular", "+1 entries", "info")
    assert (theirs["event"], theirs["logger"]) == ("a watch failed", "kopf.objects")
    assert theirs["object"] == "demo/iris"
    assert "broken" in theirs["exception"]
    assert python["logger"] == "py.warnings"
    assert all({"event", "level", "timestamp"} <= one.keys() for one in (ours, theirs, python))


@pytest.mark.looptime
async def test_each_decision_has_one_line_and_a_pass_without_one_has_none() -> None:
    kube = FakeKube()
    operator = Operator(kube)
    with structlog.testing.capture_logs() as said:
        async with operator.running():
            operator.apply(document("iris"))
            while kube.count("status") < 1:
                await _moment()
            decisions = list(said)
            for _ in range(5):
                operator.queue.enqueue(KEY, Trigger.RESYNC)
                await _moment()
    written = [one for one in decisions if one["event"] == "shard_written"]
    told = [one for one in decisions if one["event"] == "status_written"]
    assert [one["key"] for one in written] == ["demo/tabular"]
    assert written[0]["change"] == "+1 entries"
    assert [(one["key"], one["model"]) for one in told] == [("demo/tabular", "demo/iris")]
    assert told[0]["revision"]
    assert said == decisions


async def _moment() -> None:
    await asyncio.sleep(30)
