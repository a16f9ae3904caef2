"""Where the suite runs: a real node on this machine, kind, or any cluster.

A provider brings a cluster, makes images known to it, reaches its pods, and, where it owns the
node, breaks it. What a provider cannot do raises `NotHere`, and the test that asks for it is
skipped with that sentence. A cluster that does not start is an error, never a skip.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainedmodel_devkit.ports import free_port, listens
from trainedmodel_devkit.processes import ManagedProcess, scratch
from trainedmodel_devkit.waiting import wait_until

from e2e.kubectl import Kubectl, Refused


class NotHere(Exception):
    """This provider cannot do that; says why."""


@dataclass(frozen=True)
class Images:
    """The names that pods use."""

    operator: str
    puller: str
    server: str


class Provider(Protocol):
    """A cluster that the suite may use as it likes."""

    kubectl: Kubectl
    images: Images
    store_host: str
    """An address of this machine that pods reach: the S3 server of the tests listens there."""

    def pod_url(
        self, namespace: str, pod: str, port: int
    ) -> contextlib.AbstractContextManager[str]:
        """Give a URL of a pod's port that is good until the block ends."""
        ...

    def kill_container(self, namespace: str, pod: str, container: str) -> None:
        """Make a container die, and return when the cluster has noticed."""
        ...

    def restart_kubelet(self) -> None:
        """Restart the node's kubelet.

        Raises:
            NotHere: the node is not ours.
        """
        ...

    def resident_bytes(self, namespace: str, pod: str, container: str) -> int:
        """Return a container's resident memory, in bytes.

        Raises:
            NotHere: the node is not ours.
        """
        ...

    def container_root(self, namespace: str, pod: str, container: str) -> Path:
        """Return a folder of this machine through which a container's files are seen.

        Raises:
            NotHere: the node is another machine.
        """
        ...

    def logs(self) -> str:
        """Return what the node's own programs said."""
        ...


class AnyCluster:
    """A cluster that is there; the images are in a registry that its nodes reach."""

    def __init__(self, kubectl: Kubectl, images: Images, store_host: str) -> None:
        self.kubectl = kubectl
        self.images = images
        self.store_host = store_host

    @contextlib.contextmanager
    def pod_url(self, namespace: str, pod: str, port: int) -> Iterator[str]:
        """Forward a local port; kubectl carries the traffic."""
        local = free_port()
        kubeconfig = self.kubectl.kubeconfig
        own = [] if kubeconfig is None else [f"--kubeconfig={kubeconfig}"]
        words = ["-n", namespace, "port-forward", f"pod/{pod}", f"{local}:{port}"]
        command = [str(self.kubectl.program), *own, *words]
        with scratch("forward-") as folder:
            forward = ManagedProcess("port-forward", command, log=folder / "log")
            forward.start()
            try:
                wait_until(lambda: listens(local), 20, what="port-forward", details=forward.log)
                yield f"http://127.0.0.1:{local}"
            finally:
                forward.stop(grace_s=2)

    def kill_container(self, namespace: str, pod: str, container: str) -> None:
        """End a container's first process with SIGTERM: SIGKILL does not reach it from inside."""
        command = ("--", "python3", "-c", "import os; os.kill(1, 15)")
        with (
            restart(self.kubectl, namespace, pod, container),
            contextlib.suppress(Refused),
        ):
            self.kubectl("-n", namespace, "exec", pod, "-c", container, *command)

    def restart_kubelet(self) -> None:
        """Not possible: the nodes belong to somebody."""
        raise NotHere("the provider does not own the node's kubelet")

    def resident_bytes(self, namespace: str, pod: str, container: str) -> int:
        """Not possible: processes are not seen from here."""
        raise NotHere("the provider does not see the node's processes")

    def container_root(self, namespace: str, pod: str, container: str) -> Path:
        """Not possible: files are not seen from here."""
        raise NotHere("the provider does not see the containers' files")

    def logs(self) -> str:
        """Return nothing: they are somewhere else."""
        return ""


@contextlib.contextmanager
def restart(kubectl: Kubectl, namespace: str, pod: str, container: str) -> Iterator[None]:
    """Wait until a container that the block ends was started again."""
    before = _restarts(kubectl, namespace, pod, container)
    yield
    wait_until(
        lambda: _restarts(kubectl, namespace, pod, container) > before,
        60,
        what=f"{pod}/{container} started again",
    )


def _restarts(kubectl: Kubectl, namespace: str, pod: str, container: str) -> int:
    status = kubectl.get("pod", pod, "-n", namespace).get("status", {})
    found = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return next((int(one["restartCount"]) for one in found if one["name"] == container), 0)


def skip_reason(error: BaseException, phase: str) -> str | None:
    """Say why a test is skipped; None if the error is one.

    Only a test's own call may find out that a provider cannot do something. While fixtures are made
    the same words would skip everything, and a suite that never ran would be green.
    """
    return str(error) if isinstance(error, NotHere) and phase == "call" else None
