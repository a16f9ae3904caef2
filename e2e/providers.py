"""Where the suite runs: a real node on this machine, kind, or any cluster.

A provider brings a cluster, makes images known to it, reaches its pods, and, where it owns the
node, breaks it. What a provider cannot do raises `NotHere`, and the test is skipped with that
sentence.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.processes import ManagedProcess
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
    """A cluster given by a kubeconfig; the images are in a registry that its nodes reach."""

    def __init__(self, kubeconfig: Path | None, images: Images, store_host: str) -> None:
        program = shutil.which("kubectl")
        if program is None:
            raise NotHere("kubectl is not on PATH")
        self.kubectl = Kubectl(Path(program), kubeconfig)
        self.images = images
        self.store_host = store_host

    @contextlib.contextmanager
    def pod_url(self, namespace: str, pod: str, port: int) -> Iterator[str]:
        """Forward a local port; kubectl carries the traffic."""
        local = free_port()
        kubeconfig = self.kubectl.kubeconfig
        own = [] if kubeconfig is None else [f"--kubeconfig={kubeconfig}"]
        words = ["-n", namespace, "port-forward", f"pod/{pod}", f"{local}:{port}"]
        log = Path(f"/tmp/port-forward-{local}.log")
        forward = ManagedProcess("port-forward", [self.kubectl.program, *own, *words], log=log)
        forward.start()
        try:
            wait_until(lambda: _listens(local), 20, what="port-forward")
            yield f"http://127.0.0.1:{local}"
        finally:
            forward.stop(grace_s=2)
            log.unlink(missing_ok=True)

    def kill_container(self, namespace: str, pod: str, container: str) -> None:
        """End a container's first process with SIGTERM: SIGKILL does not reach it from inside."""
        before = restarts(self.kubectl, namespace, pod, container)
        command = ("--", "python3", "-c", "import os; os.kill(1, 15)")
        with contextlib.suppress(Refused):
            self.kubectl("-n", namespace, "exec", pod, "-c", container, *command)
        wait_until(
            lambda: restarts(self.kubectl, namespace, pod, container) > before,
            60,
            what=f"{pod}/{container} started again",
        )

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


def restarts(kubectl: Kubectl, namespace: str, pod: str, container: str) -> int:
    """Return how often a container of a pod was started again."""
    status = kubectl.get("pod", pod, "-n", namespace).get("status", {})
    found = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return next((int(one["restartCount"]) for one in found if one["name"] == container), 0)


def _listens(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.connect()
    except OSError:
        time.sleep(0.05)
        return False
    finally:
        connection.close()
    return True


@contextlib.contextmanager
def kind(images: Images, archives: list[Path]) -> Iterator[AnyCluster]:
    """Run the suite in a cluster of kind, in Docker.

    It was not run where this was written: no image of a kind node could be had there. What it does
    beyond `AnyCluster` is the least that can be done: a cluster, the images, an address.
    """
    for program in ("kind", "docker", "kubectl"):
        if shutil.which(program) is None:
            raise NotHere(f"the provider kind needs {program} on PATH")
    name = "trainedmodel-e2e"
    folder = Path.cwd() / ".e2e"
    folder.mkdir(exist_ok=True)
    kubeconfig = folder / "kind.kubeconfig"
    _run("kind", "create", "cluster", f"--name={name}", f"--kubeconfig={kubeconfig}", "--wait=120s")
    try:
        for archive in archives:
            _run("kind", "load", "image-archive", str(archive), f"--name={name}")
        form = "{{(index .IPAM.Config 0).Gateway}}"
        gateway = _run("docker", "network", "inspect", "kind", f"--format={form}").strip()
        yield AnyCluster(kubeconfig, images, gateway)
    finally:
        _run("kind", "delete", "cluster", f"--name={name}")
        shutil.rmtree(folder, ignore_errors=True)


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise NotHere(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout
