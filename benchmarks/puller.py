"""How fast the puller is, and how little it costs at rest; one table.

    python benchmarks/puller.py [--models 1000] [--idle-models 2000]

Real S3 server, real puller process, real files with every fsync; the model server is the
development kit's stand-in that loads in no time, so that what is measured is the puller. Times
start when the puller's process is started (so with Python's own start), or when the entries are
written to a running one, and end when it says of every model that it is loaded.

What a round has written is deleted at the very end: ext4 without a journal looks at each inode that
was deleted in the last minutes before it makes one, and rounds would slow each other by a third.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store as ObjectStore
from trainedmodel_contract.canonical import canonical_json
from trainedmodel_contract.shard import ShardManifest, entries_digest
from trainedmodel_devkit.ports import free_port, listens
from trainedmodel_devkit.processes import ManagedProcess
from trainedmodel_devkit.projection import AtomicWriter
from trainedmodel_devkit.stores import S3Store

BUCKET = "bench"


class Bench:
    """One puller with its folders, its server and its store."""

    def __init__(self, root: Path, store: S3Store) -> None:
        self.root, self.store = root, store
        self.port, self.server_port = free_port(), free_port()
        self._entries: dict[str, bytes] = {}
        (root / "config").mkdir(parents=True)
        self._writer = AtomicWriter(root / "config")
        self._server = ManagedProcess(
            "instant",
            [sys.executable, "-m", "trainedmodel_devkit.instant", "--port", str(self.server_port)],
            log=root / "server.log",
            env={"PATH": os.environ["PATH"]},
            cwd=root,
        )
        self._puller = ManagedProcess(
            "puller",
            [
                *(sys.executable, "-m", "trainedmodel_puller"),
                *("--config-dir", str(root / "config"), "--model-dir", str(root / "models")),
                *("--server", "triton", "--server-url", f"http://127.0.0.1:{self.server_port}"),
                *("--port", str(self.port), "--log-level", "warning"),
            ],
            log=root / "puller.log",
            env={"PATH": os.environ["PATH"], "HOME": str(root), **store.env()},
            cwd=root,
        )

    def __enter__(self) -> Bench:
        self._server.start()
        began = time.monotonic()
        while not listens(self.server_port):
            self._check(began, 30)
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._puller.stop(grace_s=10)
        self._server.stop(grace_s=5)

    @property
    def pid(self) -> int:
        """Process id of the puller."""
        assert self._puller.pid is not None
        return self._puller.pid

    def want(self, names: list[str], key: str = "models") -> None:
        """Write entries as the operator does, in one step."""
        for name in names:
            entry = {
                "name": name,
                "revision": "r1",
                "shard": 0,
                "storageUri": f"s3://{BUCKET}/{key}/{name}",
            }
            self._entries[f"{name}.json"] = canonical_json(entry).encode()
        manifest = ShardManifest(
            shard=0, entries=len(self._entries), digest=entries_digest(self._entries)
        )
        self._writer.write({**self._entries, "_shard-0": manifest.to_json().encode()})

    def start(self) -> None:
        """Start the puller."""
        self._puller.start()

    def wait_alive(self, timeout_s: float = 30) -> None:
        """Wait until the puller answers."""
        began = time.monotonic()
        while self._get(self.port, "/status") is None:
            self._check(began, timeout_s)
            time.sleep(0.05)

    def states(self) -> dict[str, int]:
        """Return how many models are in which state."""
        answer = self._get(self.port, "/status")
        return dict(answer["states"]) if answer else {}

    def wait_loaded(self, count: int, began: float, timeout_s: float = 120) -> float:
        """Wait until so many models are loaded; return the seconds since `began`.

        The server is asked for its number meanwhile, over one connection: a status of a thousand
        models would cost the puller more than their loads, and whatever looking costs is taken from
        what is looked at. At the end the puller itself must say so.
        """
        with contextlib.closing(HTTPConnection("127.0.0.1", self.server_port)) as server:
            while _count(server) < count:
                self._check(began, timeout_s)
                time.sleep(0.02)
        while self.states().get("Loaded", 0) < count:
            self._check(began, timeout_s)
            time.sleep(0.02)
        return time.monotonic() - began

    def _check(self, began: float, timeout_s: float) -> None:
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"{self.states()}\n{self._puller.log()[-2000:]}")

    @staticmethod
    def _get(port: int, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                return json.loads(answer.read())
        except OSError:
            return None

    def cpu_s(self) -> float:
        """Return the processor time that the puller has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self, field: str = "VmRSS") -> float:
        """Return its resident memory, now or at its peak (VmHWM)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
        return 0.0


def _count(server: HTTPConnection) -> int:
    server.request("GET", "/count")
    with server.getresponse() as answer:
        return int(answer.read())


async def fill(store: S3Store, prefix: str, names: list[str], size: int) -> None:
    """Upload a model of `size` bytes for each name: a version folder with one file."""
    access = store.env()
    target = ObjectStore(
        BUCKET,
        endpoint=store.endpoint,
        region=access["AWS_REGION"],
        access_key_id=access["AWS_ACCESS_KEY_ID"],
        secret_access_key=access["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True},
    )
    await asyncio.to_thread(store.put, BUCKET, "made", b"")
    slots = asyncio.Semaphore(32)

    async def put(name: str) -> None:
        async with slots:
            content = name.encode().ljust(size, b"x")
            await obstore.put_async(target, f"{prefix}/{name}/1/weights.bin", content)

    await asyncio.gather(*(put(name) for name in names))


@contextlib.contextmanager
def bench(store: S3Store) -> Iterator[Bench]:
    """Make a bench in a folder of its own, which is deleted when the process ends."""
    folder = tempfile.mkdtemp(prefix="trainedmodel-bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with Bench(Path(folder), store) as made:
        yield made


def row(what: str, value: str, target: str) -> None:
    """Print a line of the table."""
    print(f"{what:<72} {value:>12}   {target}", flush=True)


def measure_start(store: S3Store, count: int, rounds: int) -> None:
    """Start a puller with many models waiting for it, and with some among them that are bad.

    The two take turns, so that both see the same moods of a machine that is shared.
    """
    bad = [f"broken-{i}" for i in range(10)] + [f"hang-{i}" for i in range(5)]
    names = [f"m{i:05}" for i in range(count)]
    good = names[: count - len(bad)]
    asyncio.run(fill(store, "start", [*names, *bad], 100_000))
    times: list[float] = []
    beside: list[float] = []
    peak = 0.0
    for _ in range(rounds):
        took, rss = _start(store, names, count)
        times.append(took)
        peak = max(peak, rss)
        beside.append(_start(store, [*bad, *good], len(good))[0])
    value, value_beside = statistics.median(times), statistics.median(beside)
    row(f"{count} models of 100 KB at start, durable, all loaded", f"{value:.2f} s", "< 5 s")
    row(f"  of that: {value / count * 1000:.1f} ms a model; peak RSS", f"{peak:.0f} MiB", "")
    more = (value_beside / value - 1) * 100
    row(f"  with 10 broken and 5 hanging loads: the other {len(good)}", f"{value_beside:.2f} s", "")
    row("  delay of the good ones", f"{more:+.0f} %", "< +20 %")


def _start(store: S3Store, names: list[str], count: int) -> tuple[float, float]:
    """Return the seconds until so many are loaded, and the most memory in MiB."""
    with bench(store) as made:
        made.want(names, "start")
        began = time.monotonic()
        made.start()
        return made.wait_loaded(count, began), made.rss_mib("VmHWM")


def measure_added(store: S3Store, rounds: int) -> None:
    """Add models to a running puller."""
    names = [f"a{i:03}" for i in range(100)]
    asyncio.run(fill(store, "added", names, 1_000_000))
    times = []
    for _ in range(rounds):
        with bench(store) as made:
            made.want([], "added")
            made.start()
            made.wait_alive()
            time.sleep(1)
            made.want(names, "added")  # its last step is the swap that shows them
            began = time.monotonic()
            times.append(made.wait_loaded(len(names), began))
    row(
        "100 models of 1 MB added to a running puller",
        f"{statistics.median(times):.2f} s",
        "< 0.6 s",
    )


def measure_idle(store: S3Store, count: int, seconds: float) -> None:
    """Do nothing with many models."""
    names = [f"i{i:05}" for i in range(count)]
    asyncio.run(fill(store, "idle", names, 1_000))
    with bench(store) as made:
        made.want(names, "idle")
        began = time.monotonic()
        made.start()
        made.wait_loaded(count, began, 300)
        time.sleep(5)
        before, at = made.cpu_s(), time.monotonic()
        time.sleep(seconds)
        share = (made.cpu_s() - before) / (time.monotonic() - at) * 100
        row(f"{count} loaded models, nothing to do: share of a core", f"{share:.2f} %", "< 2 %")
        row("  RSS", f"{made.rss_mib():.0f} MiB", "< 150 MB")


def measure_plan() -> None:
    """Plan for 10,000 models: in a process of its own, without its caller's memory."""
    script = Path(__file__).with_name("plan_pass.py")
    found: dict[str, Any] = json.loads(
        subprocess.run([sys.executable, str(script)], capture_output=True, check=True).stdout
    )
    for case, milliseconds in found.items():
        row(f"one plan of 10,000 models, {case}", f"{milliseconds:.0f} ms", "< 100 ms")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--idle-models", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle-seconds", type=float, default=20)
    told = parser.parse_args()
    print(f"{'':<72} {'measured':>12}   target")
    with S3Store() as store:
        measure_start(store, told.models, told.rounds)
        measure_added(store, told.rounds)
        measure_idle(store, told.idle_models, told.idle_seconds)
    measure_plan()


if __name__ == "__main__":
    main()
