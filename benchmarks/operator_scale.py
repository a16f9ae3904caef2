"""What the operator costs at size, on a real API server; two tables.

    python benchmarks/operator_scale.py [--sizes 1000,5000,10000] [--reports 5000x100]

The file is not called after the operator alone: a module `operator` beside a script takes the place
of the standard library's.

Real API server, real operator process with the shipped account and roles. Both share the processors
with the bench that writes the objects. Writes and requests are counted by the API server's audit.

First table, for each size (fifty models a service): all models are created as fast as the API
server takes them, round-robin over the services, which is the worst order for coalescing; then the
operator is restarted; then single models change; then resyncs find nothing. Second table: one
service with many models and many pods, whose reports grow in steps until each says that all models
are loaded. Only a few pods report at once: one patch of such a report costs the API server half a
second of a processor, whatever it changes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainedmodel_contract import names
from trainedmodel_devkit import meter
from trainedmodel_devkit.crowd import Crowd
from trainedmodel_devkit.documents import loaded, trained_model
from trainedmodel_devkit.operatorscene import Asked, OperatorScene
from trainedmodel_devkit.waiting import until

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE = "crowd"
MODELS_A_PARENT = 50
RESYNC_S = 15.0
CHANGES = 15
STEPS = 2
REPORTERS = 4

#: The promises, in the order of the tables.
SHARDS_WITHIN_S = 10.0
WRITES_A_SHARD = 10
PEAK_RSS_MIB = 300 * 1000 * 1000 / 1024 / 1024
RESTART_WITHIN_S = 10.0
CHANGE_WITHIN_S = 0.1
STATUSES_AFTER_LAST_REPORT = 2

_program: tuple[str, ...] = ("-m", "trainedmodel_operator")
_numbers = itertools.count()


@dataclass
class Column:
    """One column of a table: what was measured, as text, and which promises were broken."""

    title: str
    rows: dict[str, str] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)

    def note(self, what: str, value: str, holds: bool = True) -> None:
        """Note a figure, and whether it is as promised."""
        self.rows[what] = value if holds else f"{value} !"
        if not holds:
            self.missed.append(f"{self.title}: {what}: {value}")
        print(f"  {self.title}: {what}: {value}", file=sys.stderr, flush=True)


def program() -> tuple[str, ...]:
    """Return what Python runs; under a profiler where PROFILE names a folder."""
    folder = os.environ.get("PROFILE")
    if not folder:
        return _program
    return ("-m", "cProfile", "-o", f"{folder}/operator-{next(_numbers)}.prof", *_program)


async def on_rest(scene: OperatorScene) -> float:
    """Wait for the operator to come to rest; return the time since when it is."""
    return await meter.at_rest(scene.pid)


async def measure_creation(
    scene: OperatorScene, crowd: Crowd, column: Column, count: int
) -> list[dict[str, Any]]:
    """Create all models as fast as the API server takes them."""
    services = max(1, count // MODELS_A_PARENT)
    models = [
        trained_model(f"m{i:05}", f"service-{i % services:03}", framework="sklearn")
        for i in range(count)
    ]
    cpu, mark, began = scene.cpu_s(), scene.mark(), time.monotonic()
    await crowd.create_models(models)
    created = time.monotonic()
    await until(lambda: _holds(crowd, count), 120, every_s=0.2)
    complete = time.monotonic()
    rest = await on_rest(scene)
    asked = scene.asked(mark)
    late, most = complete - created, max(asked.shard_writes.values(), default=0)
    peak = meter.rss_mib(scene.pid, peak=True)
    column.note("created in", f"{created - began:.1f} s")
    column.note("last create -> all in shards", f"{late:.1f} s", late <= SHARDS_WITHIN_S)
    column.note("last create -> at rest", f"{rest - created:.1f} s")
    column.note("CPU of the operator", f"{scene.cpu_s() - cpu:.1f} s")
    column.note("peak RSS", f"{peak:.0f} MiB", peak <= PEAK_RSS_MIB)
    column.note("requests", str(asked.requests))
    column.note("of those reads", str(asked.reads.total()))
    column.note("ConfigMap writes", str(asked.shard_writes.total()))
    column.note("most for one shard", str(most), most <= WRITES_A_SHARD)
    column.note("status writes", str(asked.status_writes.total()))
    _note_refused(column, asked)
    return models


async def _holds(crowd: Crowd, count: int) -> bool:
    return await crowd.count_entries() >= count


def _note_refused(column: Column, asked: Asked) -> None:
    if asked.refused:
        column.note("refused", ", ".join(f"{k} x{n}" for k, n in asked.refused.items()))


async def measure_restart(scene: OperatorScene, column: Column) -> None:
    """Restart the operator: it must find that nothing is to be done."""
    scene.stop()
    mark = scene.mark()
    began = scene.start(resync_s=RESYNC_S)
    rest = await on_rest(scene)
    asked, peak = scene.asked(mark), meter.rss_mib(scene.pid, peak=True)
    column.note("restart -> at rest", f"{rest - began:.1f} s", rest - began <= RESTART_WITHIN_S)
    column.note("writes after a restart", str(asked.writes), asked.writes == 0)
    column.note("requests after a restart", str(asked.requests))
    column.note("CPU of a restart", f"{scene.cpu_s():.1f} s")
    column.note("peak RSS of a restart", f"{peak:.0f} MiB", peak <= PEAK_RSS_MIB)


async def measure_resync(scene: OperatorScene, column: Column) -> None:
    """Count what one resync asks for that finds nothing, from those of three periods."""
    cpu, mark = scene.cpu_s(), scene.mark()
    await asyncio.sleep(3 * RESYNC_S)
    asked, spent = scene.asked(mark), scene.cpu_s() - cpu
    column.note("writes of no-op resyncs", str(asked.writes), asked.writes == 0)
    column.note("requests of one no-op resync", f"{asked.requests / 3:.0f}")
    column.note("CPU of one no-op resync", f"{spent / 3:.2f} s")


async def measure_change(
    scene: OperatorScene, crowd: Crowd, column: Column, models: list[dict[str, Any]]
) -> None:
    """Change single models, each of another service, one after the other."""
    times = []
    async with crowd.watching_shards() as watch:
        for number in range(CHANGES):
            model = models[number]
            shard = names.shard_name(model["spec"]["inferenceService"], 0)
            await crowd.patch_model(model["metadata"]["name"], _new_version(number))
            began = time.monotonic()
            times.append(await watch.next_of(shard, began - 0.05) - began)
            await asyncio.sleep(0.3)
    median = statistics.median(times)
    column.note("one change -> its shard, median", f"{median * 1000:.0f} ms", median <= 0.1)
    column.note("one change -> its shard, most", f"{max(times) * 1000:.0f} ms")
    await on_rest(scene)


def _new_version(number: int) -> dict[str, Any]:
    return {"spec": {"model": {"version": f"v{number}"}}}


async def size(count: int) -> Column:
    """Measure one size, on a control plane of its own."""
    column = Column(f"{count:,}")
    with OperatorScene(ROOT, program=program()) as scene:
        scene.control_plane.kubectl("create", "namespace", NAMESPACE)
        async with Crowd(scene.control_plane, NAMESPACE) as crowd:
            scene.start()
            await on_rest(scene)
            models = await measure_creation(scene, crowd, column, count)
            await measure_restart(scene, column)
            await measure_resync(scene, column)
            await measure_change(scene, crowd, column, models)
    return column


async def reports(count: int, pods: int) -> Column:
    """Measure one service with many models and many pods that report."""
    column = Column(f"{count:,} x {pods}")
    models = [trained_model(f"m{i:05}", "service", framework="sklearn") for i in range(count)]
    with OperatorScene(ROOT, program=program()) as scene:
        scene.control_plane.kubectl("create", "namespace", NAMESPACE)
        async with Crowd(scene.control_plane, NAMESPACE) as crowd:
            scene.start()
            names_of_pods = [f"pod-{i:03}" for i in range(pods)]
            for pod in names_of_pods:
                await crowd.create_report(pod, await crowd.create_pod(pod, "service"), "service")
            await crowd.create_models(models)
            await until(lambda: _holds(crowd, count), 120, every_s=0.2)
            await on_rest(scene)
            cpu, first = scene.cpu_s(), scene.mark()
            began = time.monotonic()
            last, mark = await _report(scene, crowd, models, names_of_pods)
            await until(lambda: _are_ready(crowd, count), 300, every_s=0.5)
            ready = time.monotonic()
            rest = await on_rest(scene)
            after, whole = scene.asked(mark), scene.asked(first)
            peak = meter.rss_mib(scene.pid, peak=True)
            most = max(after.status_writes.values(), default=0)
            column.note("reports written in", f"{last - began:.1f} s")
            column.note("last report -> all Ready", f"{ready - last:.1f} s")
            column.note("last report -> at rest", f"{rest - last:.1f} s")
            column.note("CPU of the operator", f"{scene.cpu_s() - cpu:.1f} s")
            column.note("peak RSS", f"{peak:.0f} MiB", peak <= PEAK_RSS_MIB)
            column.note("requests", str(whole.requests))
            column.note("of those reads", str(whole.reads.total()))
            column.note("status writes", str(whole.status_writes.total()))
            most_holds = most <= STATUSES_AFTER_LAST_REPORT
            column.note("most for one model after the last report", str(most), most_holds)
            _note_refused(column, whole)
            await measure_restart(scene, column)
    return column


async def _report(
    scene: OperatorScene, crowd: Crowd, models: list[dict[str, Any]], pods: list[str]
) -> tuple[float, int]:
    """Let the pods load all models in steps; return when the last had reported, and the mark."""
    digest = await crowd.seen_digest("service")
    done = loaded(models)
    waiting = {
        name: {"state": "Waiting", "reason": "Queued", "revision": entry["revision"]}
        for name, entry in done.items()
    }
    saying = list(done.items())
    for step in range(STEPS + 1):
        part = dict(saying[len(saying) * (step - 1) // STEPS : len(saying) * step // STEPS])
        if step == 0:
            patch: dict[str, Any] = {"configDigest": digest, "models": waiting}
        else:
            gone = {"reason": None}
            patch = {"models": {name: {**entry, **gone} for name, entry in part.items()}}
        await crowd.all(*(crowd.patch_report(pod, patch) for pod in pods), at_once=REPORTERS)
    return time.monotonic(), scene.mark()


async def _are_ready(crowd: Crowd, count: int) -> bool:
    return await crowd.count_ready() >= count


def show(title: str, columns: list[Column]) -> None:
    """Print one table: a column for each size."""
    print(f"\n{title}\n")
    whats = list(dict.fromkeys(what for column in columns for what in column.rows))
    print(f"| {'':<42} | " + " | ".join(f"{column.title:>12}" for column in columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for what in whats:
        values = (f"{column.rows.get(what, ''):>12}" for column in columns)
        print(f"| {what:<42} | " + " | ".join(values) + " |")


def machine() -> str:
    """Say in words what this was measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    busy = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GB, Python {sys.version.split()[0]}; API server, "
        f"etcd, operator and bench on them together; load average at the start {busy:.1f}"
    )


def main() -> int:
    """Print the tables; return 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1000,5000,10000")
    parser.add_argument("--reports", default="5000x100", help="models x pods; empty: none")
    told = parser.parse_args()
    print(machine())
    sizes = [asyncio.run(size(int(count))) for count in told.sizes.split(",") if count]
    if sizes:
        show(f"Models, {MODELS_A_PARENT} a parent", sizes)
    crowded = []
    if told.reports:
        count, pods = (int(number) for number in told.reports.split("x"))
        crowded = [asyncio.run(reports(count, pods))]
        show("One parent, models x pods", crowded)
    missed = [one for column in (*sizes, *crowded) for one in column.missed]
    print("\nall promises hold" if not missed else "\nmissed: " + "; ".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
