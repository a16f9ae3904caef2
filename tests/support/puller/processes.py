"""A real puller process over folders of a test, spoken to as a user would: files, HTTP, signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from trainedmodel_contract.revision import compute_revision
from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.projection import AtomicWriter
from trainedmodel_devkit.waiting import wait_until

Json = dict[str, Any]


def get(url: str, timeout_s: float = 10) -> tuple[int, bytes]:
    """GET a URL; errors of HTTP are answers too."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def infer(server_url: str, model: str, value: float) -> float | None:
    """Ask a scale model; None when the server does not answer with success."""
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [value]}]}
    request = urllib.request.Request(
        f"{server_url}/v2/models/{model}/infer",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return float(json.loads(answer.read())["outputs"][0]["data"][0])
    except (OSError, ValueError):
        return None


#: No wait for a condition gives up earlier, in seconds: its bound says nothing about speed.
LEAST_WAIT_S: Final = 60.0


class Puller:
    """One puller: its folders, its process, its words."""

    def __init__(
        self,
        root: Path,
        *,
        server: str = "none",
        server_url: str = "http://127.0.0.1:1",
        env: dict[str, str] | None = None,
        flags: tuple[str, ...] = (),
    ) -> None:
        self.config = root / "config"
        self.models = root / "volume" / "models"
        self.state = root / "volume" / "state"
        self.log = root / "puller.log"
        self.server_url = server_url
        for folder in (self.config, self.models):
            folder.mkdir(parents=True, exist_ok=True)
        self._port = free_port()
        self._env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(root),
            **(env or {}),
        }
        self._command = [
            *(sys.executable, "-m", "trainedmodel_puller"),
            *("--config-dir", str(self.config)),
            *("--model-dir", str(self.models)),
            *("--server", server),
            *("--server-url", server_url),
            *("--port", str(self._port)),
            *flags,
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self._writer = AtomicWriter(self.config)

    # -- its life -----------------------------------------------------------------------

    def start(self) -> None:
        """Start the process and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self.until(lambda: self.status() is not None, "the puller to answer", 15)

    def refuse(self) -> tuple[int, str]:
        """Run it, expecting that it ends by itself; return exit code and words."""
        ended = subprocess.run(
            self._command, env=self._env, capture_output=True, timeout=20, check=False
        )
        return ended.returncode, ended.stderr.decode()

    def kill(self) -> None:
        """End it as the kernel would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def terminate(self) -> tuple[int, float]:
        """End it as a kubelet would; return its exit code and the seconds it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.process = None
        return code, time.monotonic() - began

    @property
    def url(self) -> str:
        """Its own endpoints."""
        return f"http://127.0.0.1:{self._port}"

    # -- what it is told ----------------------------------------------------------------

    def put(self, name: str, uri: str, **fields: Any) -> str:
        """Write a loose entry; return its revision."""
        revision = compute_revision(
            storage_uri=uri,
            name=fields.get("name", name),
            framework="",
            version=fields.get("version"),
            digest=fields.get("digest"),
        )
        entry = {"name": name, "storageUri": uri, "revision": revision, **fields}
        self.write(f"{name}.json", json.dumps(entry))
        return revision

    def write(self, file: str, content: str) -> None:
        """Write any file of the configuration folder, whole or not at all."""
        temporary = self.config / f".{file}.tmp"
        temporary.write_text(content)
        temporary.replace(self.config / file)

    def remove(self, name: str) -> None:
        """Remove a loose entry."""
        (self.config / f"{name}.json").unlink()

    def project(self, files: dict[str, bytes]) -> None:
        """Publish a whole folder as a kubelet does."""
        self._writer.write(files)

    # -- what it says -------------------------------------------------------------------

    def status(self) -> Json | None:
        """Return `/status`, or None when it does not answer."""
        try:
            document: Json = json.loads(get(f"{self.url}/status")[1])
        except (OSError, ValueError):
            return None
        return document

    def model(self, name: str) -> Json:
        """Return what it says of one model; empty when it says nothing."""
        status = self.status()
        model: Json = {} if status is None else status["models"].get(name, {})
        return model

    def wait(self, name: str, timeout_s: float = 15, **fields: Any) -> Json:
        """Wait until the model is told of with these fields."""

        def is_so() -> bool:
            model = self.model(name)
            return bool(model) and all(model.get(key) == value for key, value in fields.items())

        self.until(is_so, f"{name} to be {fields}", timeout_s)
        return self.model(name)

    def wait_gone(self, name: str, timeout_s: float = 15) -> None:
        """Wait until the model is no longer told of, by a puller that has settled."""

        def is_gone() -> bool:
            status = self.status()
            return status is not None and status["isSettled"] and name not in status["models"]

        self.until(is_gone, f"{name} to go", timeout_s)

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
        """Wait for a condition; fail with the process's own words."""

        def details() -> str:
            return f"{self.status()}\n{self.log.read_text(errors='replace')[-3000:]}"

        wait_until(
            condition, max(timeout_s, LEAST_WAIT_S), what=what, every_s=0.01, details=details
        )

    def events(self, name: str | None = None) -> list[Json]:
        """Return its log lines, of all its lives."""
        lines = [
            json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")
        ]
        return [line for line in lines if name is None or line["event"] == name]

    def files(self) -> list[str]:
        """Return all files below models/ and state/, but for what it remembers on purpose."""
        kept = {self.state / "held.json", self.state / "owner"}
        root = self.models.parent
        return sorted(
            str(path.relative_to(root))
            for path in root.rglob("*")
            if path.is_file() and path not in kept
        )


@contextlib.contextmanager
def running(puller: Puller) -> Iterator[Puller]:
    """Start a puller, and end it whatever happens."""
    puller.start()
    try:
        yield puller
    finally:
        puller.kill()


class Hammer:
    """Asks a model without a pause from several threads, and counts what fails."""

    def __init__(self, server_url: str, model: str, allowed: set[float], workers: int = 3) -> None:
        self._url, self._model, self._allowed = server_url, model, allowed
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(workers)]
        self._lock = threading.Lock()
        self.sent = 0
        self.failed = 0
        self.seen: set[float] = set()

    def _run(self) -> None:
        deadline = time.monotonic() + 60
        while not self._stop.is_set() and time.monotonic() < deadline:
            answer = infer(self._url, self._model, 1.0)
            with self._lock:
                self.sent += 1
                if answer is None or answer not in self._allowed:
                    self.failed += 1
                else:
                    self.seen.add(answer)

    def __enter__(self) -> Hammer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(15)
