"""A model server that is killed with many models: how long until it has them back, and whose time.

    python benchmarks/restart.py [--models 50] [--server mlserver|triton] [--rounds 3]

A puller makes a real server serve the models. Then the server is killed and started again at once,
as a kubelet does, and the time is split:

- start: from the kill until the new process answers; the server's own;
- loads: the same loads, called by this script with four at a time on a server that has just been
  started, and no puller beside it; the server's own;
- puller: what is left of the time until the puller says that all of them are loaded.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.puller.processes import Puller, get, running
from trainedmodel_devkit.models import write_iris, write_scale_mlserver, write_scale_triton
from trainedmodel_devkit.servers import MLServer, RunningServer, Triton, serve
from trainedmodel_devkit.waiting import wait_until

_AT_ONCE = 4


def wait_for(condition: Callable[[], bool], pause_s: float = 0.01) -> float:
    """Return when the condition holds."""
    wait_until(condition, 300, every_s=pause_s)
    return time.monotonic()


def answers(server: RunningServer) -> bool:
    try:
        return get(f"{server.url}/v2/health/live", 2)[0] == 200
    except OSError:
        return False


def restart(server: RunningServer) -> tuple[float, float]:
    """Kill and start the server; return when it was killed and when it answered."""
    server.process.kill(signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: server.process.poll() is not None, 0.001)
    server.process.start()
    return killed, wait_for(lambda: answers(server))


def load(server: RunningServer, name: str) -> None:
    url = f"{server.url}/v2/repository/models/{name}/load"
    request = urllib.request.Request(url, b"{}", {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        answer.read()


def bare_loads(server: RunningServer, names: list[str]) -> float:
    restart(server)
    began = time.monotonic()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda name: load(server, name), names))
    return time.monotonic() - began


def with_puller(server: RunningServer, puller: Puller, names: list[str]) -> tuple[float, float]:
    """Return the seconds from the kill until the server answered, and until it has all."""
    killed, up = restart(server)
    time.sleep(0.5)  # a status of before would say that all is well
    wait_for(lambda: has_all(puller, names), 0.05)
    return up - killed, time.monotonic() - killed


def has_all(puller: Puller, names: list[str]) -> bool:
    """Tell whether the server has said of each model, to the puller, that it is ready."""
    status = puller.status()
    if status is None or not status["server"]["isKnown"]:
        return False
    is_ready = status["server"]["models"].get("Ready", 0) >= len(names)
    return bool(is_ready and status["states"] == {"Loaded": len(names)})


def write_model(kind: str, folder: Path) -> None:
    if kind == "sklearn":
        write_iris(folder)
    elif kind == "triton":
        write_scale_triton(folder, 2)
    else:
        write_scale_mlserver(folder, 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--server", choices=["mlserver", "triton", "sklearn"], default="mlserver")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    launcher = Triton() if options.server == "triton" else MLServer()
    with tempfile.TemporaryDirectory(prefix="trainedmodel-restart-") as folder:
        root = Path(folder)
        write_model(options.server, root / "source" / "m")
        models = root / "volume" / "models"
        names = [f"m{number}" for number in range(options.models)]
        with serve(launcher, models) as server:
            flags = ("--file-root", str(root / "source"))
            puller = Puller(root, server=server.kind, server_url=server.url, flags=flags)
            rows = []
            with running(puller):
                for name in names:
                    puller.put(name, f"file://{root}/source/m")
                wait_for(lambda: has_all(puller, names), 0.1)
                time.sleep(3)
                for _ in range(options.rounds):
                    rows.append(with_puller(server, puller, names))
                    time.sleep(3)
            bare = [bare_loads(server, names) for _ in range(options.rounds)]
    start, total = (statistics.median(column) for column in zip(*rows, strict=True))
    loads = statistics.median(bare)
    print(
        json.dumps(
            {
                "server": options.server,
                "models": options.models,
                "start_s": round(start, 2),
                "loads_s": round(loads, 2),
                "all_back_s": round(total, 2),
                "puller_s": round(total - start - loads, 2),
                "rounds": [[round(value, 2) for value in row] for row in rows],
                "bare_rounds": [round(value, 2) for value in bare],
            }
        )
    )


if __name__ == "__main__":
    main()
