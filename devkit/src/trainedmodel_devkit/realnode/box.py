"""A box: namespaces of their own for all programs of one node, and the one way to end them."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from trainedmodel_devkit import guard
from trainedmodel_devkit.errors import CommandFailed, StartFailed
from trainedmodel_devkit.guardian import remove_cgroup
from trainedmodel_devkit.processes import ManagedProcess
from trainedmodel_devkit.realnode.network import Addresses, attach_link, make_link, remove_link

_INIT = Path(__file__).with_name("boxinit.py")
_CGROUPS = Path("/sys/fs/cgroup")
_START_TIMEOUT_S = 20
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Box:
    """Network, mounts and processes of a node; a context manager.

    If the process that made it is killed, the guard ends the box and removes the rest: a folder, a
    pair of network devices, a cgroup. If the guard is killed too, the next run does it.
    """

    def __init__(self, own_folders: Iterable[str] = ()) -> None:
        """Take places beyond those of a kubelet that programs write to whatever they are told."""
        self._own_folders = tuple(own_folders)

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="trainedmodel-node-"))
        guard.watch_folder(self.folder)
        # A name that is used once: what a killed run has left is never taken for a living box's.
        self.cgroup = self.folder.name
        self.addresses: Addresses = make_link()
        guard.watch_link(self.addresses.machine_device)
        self._processes: list[ManagedProcess] = []
        self._init = ManagedProcess(
            "box",
            [
                *("unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc"),
                *("--net", "--uts", "--ipc", "--propagation", "private"),
                *(sys.executable, "-I", "-S", str(_INIT), str(self.folder), *self._own_folders),
            ],
            log=self.folder / "logs" / "box.log",
        )
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._init.stop(grace_s=0)
        for process in self._processes:  # ended with the box; to be reaped
            process.stop(grace_s=1)
        remove_link(self.addresses)
        guard.forget_link(self.addresses.machine_device)
        for controller in _controllers():
            remove_cgroup(controller / self.cgroup)
            guard.forget_cgroup(controller / self.cgroup)
        shutil.rmtree(self.folder, ignore_errors=True)
        guard.forget_folder(self.folder)

    def _open(self) -> None:
        for controller in _controllers():
            (controller / self.cgroup).mkdir()
            guard.watch_cgroup(controller / self.cgroup)
        self._init.start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not (self.folder / "up").exists():
            self._init.check_alive()
            if time.monotonic() > deadline:
                raise StartFailed(f"no box after {_START_TIMEOUT_S} s:\n{self._init.log()}")
            time.sleep(0.02)
        attach_link(self.addresses, self._pid())

    def process(
        self, name: str, command: list[str | Path], env: Mapping[str, str] | None = None
    ) -> ManagedProcess:
        """Describe a program that runs in the box; the caller starts it.

        It dies with the box. Only SIGKILL reaches the program itself: other signals end the helper
        that entered the box, and the program is killed with its group.
        """
        process = ManagedProcess(
            name,
            [*self._enter(), *command],
            log=self.folder / "logs" / f"{name}.log",
            env={"PATH": PATH, "HOME": str(self.folder), **(env or {})},
            cwd=self.folder,
        )
        self._processes.append(process)
        return process

    def run(self, *command: str | Path, timeout_s: float = 120) -> str:
        """Run a program in the box to its end and return its output.

        Raises:
            CommandFailed: with what it wrote to standard error.
        """
        words = [str(word) for word in (*self._enter(), *command)]
        result = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env={"PATH": PATH, "HOME": str(self.folder)},
        )
        if result.returncode != 0:
            text = " ".join(str(word) for word in command)
            raise CommandFailed(f"{text}: {result.stderr.strip() or result.stdout.strip()}")
        return result.stdout

    def path(self, inside: str) -> Path:
        """Return the way from outside to a path of the box, through its own mounts."""
        return Path(f"/proc/{self._pid()}/root/{inside.lstrip('/')}")

    def _enter(self) -> list[str | Path]:
        spaces = ("--pid", "--mount", "--net", "--uts", "--ipc")
        return ["nsenter", "--target", str(self._pid()), *spaces, "--"]

    def _pid(self) -> int:
        """Return the number, on the machine, of the box's first process."""
        outer = self._init.pid
        if outer is None:
            raise StartFailed(f"the box has ended:\n{self._init.log()}")
        return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])


def _controllers() -> list[Path]:
    """List the mounted hierarchies: one each in version 1, the only one in version 2."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [one for one in _CGROUPS.iterdir() if one.is_dir() and not one.is_symlink()]
