"""The containers that a containerd runs, as its own client `ctr` shows them.

The same on every node: only the way into the node differs, and its owner hands that in.
"""

from collections.abc import Callable
from dataclasses import dataclass

from trainedmodel_devkit.errors import CommandFailed

SOCKET = "/run/containerd/containerd.sock"
_CTR = ("ctr", "--address", SOCKET, "--namespace", "k8s.io")


@dataclass(frozen=True)
class RunningContainer:
    """One container that runs, and the number of its first process inside the node."""

    id: str
    pid: int


class Tasks:
    """The running containers of one node."""

    def __init__(self, run: Callable[..., str]) -> None:
        """Take what runs a program in the node and returns its output."""
        self._run = run

    def find(self, pod: str, container: str) -> RunningContainer:
        """Return a pod's running container by its name in the pod.

        Raises:
            CommandFailed: it does not run.
        """
        wanted = f'labels."io.kubernetes.pod.name"=={pod}'
        named = f'labels."io.kubernetes.container.name"=={container}'
        found = self._ctr("containers", "list", "--quiet", f"{wanted},{named}").split()
        running = running_tasks(self._ctr("tasks", "list"))
        alive = [RunningContainer(one, running[one]) for one in found if one in running]
        if not alive:
            raise CommandFailed(f"{pod}/{container} does not run")
        return alive[0]

    def kill(self, pod: str, container: str) -> None:
        """Kill a container's processes, as the kernel does when memory runs out.

        Raises:
            CommandFailed: it does not run.
        """
        found = self.find(pod, container)
        self._ctr("tasks", "kill", "--all", "--signal", "SIGKILL", found.id)

    def resident_bytes(self, pod: str, container: str) -> int:
        """Return the resident memory of a container's processes.

        Raises:
            CommandFailed: it does not run.
        """
        lines = self._ctr("tasks", "ps", self.find(pod, container).id).splitlines()[1:]
        pages = sum(
            int(self._run("cat", f"/proc/{line.split()[0]}/statm").split()[1]) for line in lines
        )
        return pages * 4096

    def _ctr(self, *words: str) -> str:
        return self._run(*_CTR, *words)


def running_tasks(listed: str) -> dict[str, int]:
    """Read `ctr tasks list`: the first process of each container that runs, by its id."""
    lines = [line.split() for line in listed.splitlines()[1:]]
    return {words[0]: int(words[1]) for words in lines if words[2:] == ["RUNNING"]}
