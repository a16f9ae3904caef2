"""The Docker that runs a cluster's node: the machine's own, or a daemon in a box."""

import abc
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from trainedmodel_devkit.errors import CommandFailed
from trainedmodel_devkit.kind.choice import ipv4_gateway
from trainedmodel_devkit.processes import run_to_end
from trainedmodel_devkit.realnode.box import PATH, Box
from trainedmodel_devkit.waiting import wait_until

_ASK_TIMEOUT_S = 20
_START_TIMEOUT_S = 60
_RUNTIME = Path(__file__).with_name("runc_trimmed.py")
# Places that Docker makes whatever it is told, and one that kind mounts into its nodes.
_OWN_FOLDERS = ("/etc/docker", "/opt/containerd")
_MODULES = "/lib/modules"


class Engine(abc.ABC):
    """A Docker, and how to reach what runs in it."""

    env: Mapping[str, str] | None = None
    """The environment of its clients; None for that of this process."""
    api_server: str | None = None
    """Where a cluster's API server listens; None for kind's own choice."""
    outlives_us = True
    """Whether a cluster stays when this process ends, unless it is deleted."""

    @abc.abstractmethod
    def store_host(self) -> str:
        """Return an address of this machine that pods reach, once a cluster is there."""

    @abc.abstractmethod
    def process(self, number: int) -> Path:
        """Return the folder below /proc of a process of the engine's machine."""

    def log(self) -> str:
        """Return the end of what the engine said, if that can be seen."""
        return ""


class MachinesDocker(Engine):
    """The Docker that answers the clients of this process."""

    def store_host(self) -> str:
        """Return the gateway of Docker's network `kind`: pods reach this machine by it."""
        form = "--format={{range .IPAM.Config}}{{.Gateway}} {{end}}"
        return ipv4_gateway(run(self, "docker", "network", "inspect", "kind", form))

    def process(self, number: int) -> Path:
        """Return the folder; it is another process's where Docker runs on another machine."""
        return Path(f"/proc/{number}")


class BoxedDocker(Engine):
    """A Docker daemon in a box of its own; a context manager. It ends with all it runs.

    Raises:
        StartFailed: when entered, if it ends; with the end of its log.
        WaitedInVain: when entered, if it does not answer; with the same.
    """

    outlives_us = False

    def __enter__(self) -> Self:
        modules = () if Path(_MODULES).exists() else (_MODULES,)
        self.box = Box(own_folders=(*_OWN_FOLDERS, *modules))
        self.box.__enter__()
        try:
            self._start()
        except BaseException:
            self.box.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.box.__exit__()

    def store_host(self) -> str:
        """Return this machine's end of the pair of devices."""
        return self.box.addresses.machine

    def process(self, number: int) -> Path:
        """Return the folder, through the box's own /proc."""
        return self.box.path(f"/proc/{number}")

    def log(self) -> str:
        """Return the end of what the daemon said."""
        return self._daemon.log()[-4000:]

    def _start(self) -> None:
        folder = self.box.folder
        socket = folder / "docker.sock"
        # Its clients get no proxy settings either: kind would hand them to the node.
        self.env = {"PATH": PATH, "HOME": str(folder), "DOCKER_HOST": f"unix://{socket}"}
        self.api_server = self.box.addresses.node
        self._daemon = self.box.process(
            "dockerd",
            [
                *("dockerd", f"--host=unix://{socket}", f"--data-root={folder / 'docker'}"),
                *(f"--exec-root={folder / 'exec'}", f"--pidfile={folder / 'docker.pid'}"),
                *("--storage-driver=overlay2", "--exec-opt=native.cgroupdriver=cgroupfs"),
                f"--cgroup-parent=/{self.box.cgroup}",
                *(f"--add-runtime=trimmed={self._runtime()}", "--default-runtime=trimmed"),
            ],
        )
        self._daemon.start()
        wait_until(self._answers, _START_TIMEOUT_S, what="dockerd answers", details=self.log)

    def _answers(self) -> bool:
        self._daemon.check_alive()
        return complaint_of(self.env) is None

    def _runtime(self) -> Path:
        """Write the program that stands before runc."""
        program = self.box.folder / "runc-trimmed"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{_RUNTIME}" "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return program


def complaint_of(env: Mapping[str, str] | None = None) -> str | None:
    """Ask Docker for its version, and return why it does not answer; None if it does."""
    try:
        answer = subprocess.run(
            ["docker", "version", "--format={{.Server.Version}}"],
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_ASK_TIMEOUT_S,
        )
    except FileNotFoundError:
        return "docker is not on PATH"
    except subprocess.TimeoutExpired:
        return f"silent for {_ASK_TIMEOUT_S} s"
    return None if answer.returncode == 0 else answer.stderr.strip() or answer.stdout.strip()


def run(engine: Engine, *command: str | Path, timeout_s: float = 120) -> str:
    """Run a client of an engine to its end and return its output.

    Raises:
        CommandFailed: with the end of what it said, and of what the engine said.
    """
    words = " ".join(str(word) for word in command)
    try:
        result = run_to_end(command, env=engine.env, timeout_s=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{words}: no end after {timeout_s} s\n{engine.log()}") from error
    if result.returncode != 0:
        said = (result.stdout + result.stderr).strip()[-6000:]
        raise CommandFailed(f"{words}:\n{said}\n{engine.log()}".rstrip())
    return result.stdout
