"""From `kubectl apply` of one small model to Ready in all pods, split into its parts.

    python benchmarks/propagation.py [RUNS]

Real parts: API server, operator process, two pods with MLServer and a puller each, S3 server. One
scikit-learn model has been loaded before, so that importing scikit-learn (2 s, once a pod) does not
count. Each run applies another model and waits for it alone. All times are of one machine's clock:

    apply       kubectl started -> kubectl ended (its process alone takes most of that)
    shard       kubectl started -> the operator wrote the shard
    mount       -> the last pod's mounted folder showed it
    downloaded  -> the last pod had the files, verified and sealed
    loaded      -> the last pod's server confirmed
    status      -> the TrainedModel said Ready=True, as a watch saw it
    total       kubectl started -> Ready
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from trainedmodel_devkit.demo.actions import apply_exhibits
from trainedmodel_devkit.demo.board import is_ready
from trainedmodel_devkit.demo.catalog import IRIS, TABULAR
from trainedmodel_devkit.demo.stage import Stage
from trainedmodel_devkit.documents import trained_model

PARTS = ("apply", "shard", "mount", "downloaded", "loaded", "status", "total")
LIMIT_S = 1.5


@dataclass
class Run:
    """Seconds of each part."""

    parts: dict[str, float]


def manifest(name: str, uri: str) -> str:
    """Render one TrainedModel."""
    return json.dumps(trained_model(name, TABULAR, uri, framework="sklearn"))


def snapshot(text: str) -> float:
    """Return a log's time stamp in seconds since the epoch."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC).timestamp()


def operator_wrote(log: str, since: float) -> float:
    """Return when the operator wrote the first shard after `since`."""
    for line in log.splitlines():
        if "shard_written" in line and snapshot(line.split()[0]) > since:
            return snapshot(line.split()[0])
    raise SystemExit("the operator's log has no shard write")


def puller_said(log: str, event: str, model: str) -> float:
    """Return when a puller logged an event of a model."""
    for line in reversed(log.splitlines()):
        if line.startswith("{"):
            said = json.loads(line)
            if said["event"] == event and said.get("model") == model:
                return snapshot(said["timestamp"])
    raise SystemExit(f"a puller's log has no {event} of {model}")


async def measure(stage: Stage, number: int, uri: str, folder: Path) -> Run:
    """Apply one model and time its way."""
    name = f"bench-{number}"
    document = folder / f"{name}.json"
    await asyncio.to_thread(document.write_text, manifest(name, uri))
    began = time.time()
    applying = asyncio.create_task(timed_apply(stage, document))
    await stage.board.until(
        lambda models: name in models and is_ready(models[name]), f"{name} to be Ready", 30
    )
    ready = time.time()
    applied = await applying
    logs = await stage.logs()
    pods = stage.pods_of(TABULAR)
    mounted = max((stage.config_folder(pod) / "..data").lstat().st_mtime for pod in pods)
    ends = {
        "shard": operator_wrote(logs["operator"], began),
        "mount": mounted,
        "downloaded": max(
            puller_said(logs[f"{pod}/puller"], "model_downloaded", name) for pod in pods
        ),
        "loaded": max(puller_said(logs[f"{pod}/puller"], "model_loaded", name) for pod in pods),
        "status": ready,
    }
    parts, before = {}, began
    for part, end in ends.items():
        parts[part] = end - before
        before = end
    return Run({"apply": applied, **parts, "total": ready - began})


async def timed_apply(stage: Stage, document: Path) -> float:
    """Apply a document; return the seconds that kubectl took."""
    began = time.monotonic()
    await stage.kubectl("apply", "-f", str(document))
    return time.monotonic() - began


async def run(runs: int) -> list[Run]:
    """Bring everything up, warm it, and measure."""
    async with Stage() as stage:
        await apply_exhibits(stage, [IRIS])
        uri = stage.store.url("models", "iris/v1")
        folder = Path(os.environ.get("TMPDIR", "/tmp"))
        measured = []
        for number in range(runs):
            measured.append(await measure(stage, number, uri, folder))
            (folder / f"bench-{number}.json").unlink()
            await asyncio.sleep(3)  # let the operator's window close: each run is a first change
        return measured


def main() -> None:
    """Print one table; exit 1 when the median misses the limit."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    measured = asyncio.run(run(runs))
    table = Table(title=f"kubectl apply -> Ready in 2 pods, {runs} runs, seconds")
    for column in ("part", "min", "median", "max"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part in PARTS:
        values = [run.parts[part] for run in measured]
        figures = (min(values), statistics.median(values), max(values))
        table.add_row(part, *(f"{figure:.3f}" for figure in figures))
    console = Console()
    console.print(table)
    median = statistics.median(run.parts["total"] for run in measured)
    console.print(f"median {median:.2f} s, limit {LIMIT_S} s")
    sys.exit(median > LIMIT_S)


if __name__ == "__main__":
    main()
