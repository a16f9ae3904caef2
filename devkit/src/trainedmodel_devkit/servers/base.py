"""What a launcher is, and a way to run one server outside a pod."""

import contextlib
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainedmodel_devkit import guard
from trainedmodel_devkit.errors import StartFailed
from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.processes import ManagedProcess


class ServerLauncher(Protocol):
    """How to install and start one kind of model server.

    `command` and `env` describe one instance and run nothing, so that a node can hold them in a
    pod's description and start the instance whenever its container (re)starts. The model folder may
    be a placeholder of the node.
    """

    @property
    def kind(self) -> str:
        """The server's name in the contract: `mlserver`, `triton`."""
        ...

    def ensure(self) -> None:
        """Install the server at first use; must be called before all else."""
        ...

    def command(self, model_dir: str | Path, port: int) -> list[str]:
        """Return the command line of an instance on a folder; it loads nothing by itself."""
        ...

    def env(self, port: int) -> dict[str, str]:
        """Return the environment that the instance needs."""
        ...

    def ready_url(self, port: int) -> str:
        """Return the URL that succeeds once the server takes requests, models or not."""
        ...


@dataclass(frozen=True)
class RunningServer:
    """A server that runs outside any pod."""

    kind: str
    url: str
    model_dir: Path
    process: ManagedProcess


def shared_memory(port: int) -> str:
    """Return the prefix that an instance gives to the names of its shared memory, if it has any.

    All runs on a machine share the folder of these names, and one run may choose a port that
    another one has just had: the process that starts the instance is a part of the prefix.
    """
    return f"trainedmodel-{os.getpid()}-{port}-"


@contextlib.contextmanager
def serve(
    launcher: ServerLauncher, model_dir: Path, *, timeout_s: float = 60
) -> Iterator[RunningServer]:
    """Run one server on a folder, which is made if need be, until the block ends."""
    launcher.ensure()
    model_dir.mkdir(parents=True, exist_ok=True)
    port = free_port()
    work = Path(tempfile.mkdtemp(prefix=f"trainedmodel-{launcher.kind}-"))
    guard.watch_folder(work)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(work), "LANG": "C.UTF-8", **launcher.env(port)}
    command = launcher.command(model_dir, port)
    process = ManagedProcess(
        launcher.kind,
        command,
        log=work / "server.log",
        env=env,
        cwd=work,
        shared_memory=shared_memory(port),
    )
    try:
        process.start()
        _wait_ready(process, launcher.ready_url(port), timeout_s)
        yield RunningServer(launcher.kind, f"http://127.0.0.1:{port}", model_dir, process)
    finally:
        process.stop(grace_s=10)
        shutil.rmtree(work, ignore_errors=True)
        guard.forget_folder(work)


def _wait_ready(process: ManagedProcess, url: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not _answers(url):
        process.check_alive()
        if time.monotonic() > deadline:
            raise StartFailed(
                f"{process.name} is not ready after {timeout_s} s:\n{process.log()[-3000:]}"
            )
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (OSError, urllib.error.URLError):
        return False
