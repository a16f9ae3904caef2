"""How fast the puller's downloader moves bytes, side by side with curl.

    python benchmarks/storage.py [ROUNDS]

One real S3 server on loopback, data in the page cache, all objects signed for. In each round every
row runs once, ours and curl's in turn, so that a moment of trouble on the machine hits both; the
ratio is the median of the rounds' own ratios.

    one 1 GiB       one object of 1 GiB
    500 x 64 KiB    a folder of 500 objects; curl is told their names and takes 32 at once
    synced          all files and names forced to the disk; curl is followed by fsyncs in one thread

Ours is a new process a run whose clock starts after its imports (0.5 s that a puller spends once)
and covers client, connections, listing and fetching. curl's clock covers its process, which starts
within 10 ms, and no listing. Memory is the peak of the whole process, imports included.

A limit in seconds stands where only the network and the page cache are asked; what a disk takes to
be sure is measured against curl.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from trainedmodel_contract.uri import parse_uri
from trainedmodel_devkit.stores import S3Store
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.volume.durable import sync_path

LARGE_BYTES = 1 << 30
SMALL_COUNT, SMALL_BYTES = 500, 64 * 1024
LEAST_RATIO = 0.85
MOST_SMALL_S = 0.35
MOST_PEAK_MB = 200
_PIECE = 1 << 24
_LIMIT_S = 120


@dataclass(frozen=True)
class Case:
    """What one row fetches, and how."""

    title: str
    bucket: str
    keys: tuple[str, ...]
    total: int
    is_synced: bool


@dataclass(frozen=True)
class Run:
    """What one run of one tool took."""

    seconds: float
    cpu_s: float
    peak_mb: float | None


def fill(store: S3Store, folder: Path) -> Iterator[Case]:
    """Make the objects, and tell what there is to fetch."""
    store.put("large", "seed", b"1")
    # Behind the server's back: a bucket is a folder, and a gibibyte need not pass through memory.
    with (store.folder / "buckets" / "large" / "one").open("wb") as file:
        for _ in range(LARGE_BYTES // _PIECE):
            file.write(os.urandom(_PIECE))
    folder.mkdir()
    names = tuple(f"{number:03}.bin" for number in range(SMALL_COUNT))
    for name in names:
        (folder / name).write_bytes(os.urandom(SMALL_BYTES))
    store.put_tree("small", "m", folder)
    os.sync()
    keys = tuple(f"m/{name}" for name in names)
    for is_synced in (False, True):
        word = ", synced" if is_synced else ""
        yield Case(f"one 1 GiB{word}", "large", ("one",), LARGE_BYTES, is_synced)
        total = SMALL_COUNT * SMALL_BYTES
        yield Case(f"500 x 64 KiB{word}", "small", keys, total, is_synced)


def run_ours(case: Case, folder: Path, env: dict[str, str]) -> Run:
    """Fetch a case with the puller's downloader, in a process of its own."""
    key = case.keys[0] if len(case.keys) == 1 else "m"
    command = [sys.executable, __file__, "fetch", f"s3://{case.bucket}/{key}", str(folder)]
    command.append("synced" if case.is_synced else "plain")
    said = subprocess.run(
        command, env={**os.environ, **env}, check=True, capture_output=True, timeout=_LIMIT_S
    )
    return Run(**json.loads(said.stdout))


def run_curl(case: Case, folder: Path, store: S3Store) -> Run:
    """Fetch a case with curl."""
    folder.mkdir()
    env = store.env()
    config = folder.with_suffix(".curl")
    config.write_text(
        "".join(
            f'url = "{store.endpoint}/{case.bucket}/{key}"\noutput = "{folder / Path(key).name}"\n'
            for key in case.keys
        )
    )
    login = f"{env['AWS_ACCESS_KEY_ID']}:{env['AWS_SECRET_ACCESS_KEY']}"
    command = ["curl", "--silent", "--show-error", "--fail", "--config", str(config)]
    command += ["--aws-sigv4", f"aws:amz:{env['AWS_REGION']}:s3", "--user", login]
    command += ["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]
    if len(case.keys) > 1:
        command += ["--parallel", "--parallel-max", "32"]
    began = time.perf_counter()
    # With --parallel curl shows its progress whatever it is told.
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"curl ended with {process.returncode}")
    if case.is_synced:
        for key in case.keys:
            sync_path(folder / Path(key).name)
        sync_path(folder)
    seconds = time.perf_counter() - began
    # Its peak is not told: that of a child begins with what this process had when it forked.
    return Run(seconds, usage.ru_utime + usage.ru_stime, None)


async def fetch(text: str, folder: Path, *, durable: bool) -> Run:
    """Fetch one URI as a puller does, from the first connection on."""
    began, cpu = time.perf_counter(), time.process_time()
    uri = parse_uri(text)
    async with StorageRegistry() as registry, Downloader(registry) as downloader:
        listing = await downloader.list(uri)
        await downloader.fetch(uri, listing, folder, lambda _: None, durable=durable)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Run(seconds, cpu, peak_mb())


def peak_mb() -> float:
    """Return the most memory that this process has had."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def measure(rounds: int) -> dict[Case, list[tuple[Run, Run]]]:
    """Run everything: for each case the rounds' pairs of ours and curl's."""
    base = Path(tempfile.mkdtemp(prefix="trainedmodel-bench-"))
    try:
        with S3Store() as store:
            results: dict[Case, list[tuple[Run, Run]]] = {
                case: [] for case in fill(store, base / "source")
            }
            for number in range(rounds):
                for case, pairs in results.items():
                    # New folders each time: files made where 500 others were just removed cost
                    # ext4 twice the time, for it does not use their inodes again for a while.
                    run = base / f"{number}-{case.title}"
                    run.mkdir()
                    ours, theirs = run / "ours", run / "curl"
                    if number % 2:  # who goes first finds the caches as the last row left them
                        other = run_curl(case, theirs, store)
                        pairs.append((run_ours(case, ours, store.env()), other))
                    else:
                        mine = run_ours(case, ours, store.env())
                        pairs.append((mine, run_curl(case, theirs, store)))
                    if case.bucket == "large":
                        shutil.rmtree(run)
                    os.sync()
            return results
    finally:
        shutil.rmtree(base, ignore_errors=True)


def faults(results: dict[Case, list[tuple[Run, Run]]]) -> Iterator[str]:
    """Say which limits were missed."""
    for case, pairs in results.items():
        peak = max(ours.peak_mb or 0 for ours, _ in pairs)
        if peak > MOST_PEAK_MB:
            yield f"{case.title}: {peak:.0f} MB at its peak, limit {MOST_PEAK_MB} MB"
        seconds = min(ours.seconds for ours, _ in pairs)  # whoever else works here only adds to it
        is_timed = case.bucket == "small" and not case.is_synced
        if is_timed and seconds > MOST_SMALL_S:
            yield f"{case.title}: {seconds:.3f} s at best, limit {MOST_SMALL_S} s"
        if not is_timed and ratio(pairs) < LEAST_RATIO:
            yield f"{case.title}: {ratio(pairs):.2f} of curl's rate, limit {LEAST_RATIO}"


def ratio(pairs: list[tuple[Run, Run]]) -> float:
    """Return the median over the rounds of our rate in terms of curl's."""
    return statistics.median(curl.seconds / ours.seconds for ours, curl in pairs)


def show(results: dict[Case, list[tuple[Run, Run]]], rounds: int) -> Table:
    """Make the table."""
    table = Table(title=f"downloader and curl, S3 on loopback, {rounds} rounds, medians")
    for column in ("what", "tool", "s", "min", "max", "MB/s", "CPU s", "peak MB", "of curl"):
        table.add_column(column, justify="left" if column in {"what", "tool"} else "right")
    for case, pairs in results.items():
        for tool, runs in (("puller", [a for a, _ in pairs]), ("curl", [b for _, b in pairs])):
            seconds = [run.seconds for run in runs]
            median = statistics.median(seconds)
            table.add_row(
                case.title if tool == "puller" else "",
                tool,
                *(f"{value:.3f}" for value in (median, min(seconds), max(seconds))),
                f"{case.total / median / 1e6:.0f}",
                f"{statistics.median(run.cpu_s for run in runs):.2f}",
                f"{max(run.peak_mb or 0 for run in runs):.0f}" if tool == "puller" else "-",
                f"{ratio(pairs):.2f}" if tool == "puller" else "",
            )
    return table


def main() -> None:
    """Print one table; exit 1 when a limit is missed."""
    if sys.argv[1:2] == ["fetch"]:
        _, _, text, folder, mode = sys.argv
        found = asyncio.run(fetch(text, Path(folder), durable=mode == "synced"))
        print(
            json.dumps({"seconds": found.seconds, "cpu_s": found.cpu_s, "peak_mb": found.peak_mb})
        )
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    results = measure(rounds)
    console = Console()
    console.print(show(results, rounds))
    missed = list(faults(results))
    for fault in missed:
        console.print(fault)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
