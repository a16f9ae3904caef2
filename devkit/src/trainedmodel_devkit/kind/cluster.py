"""One cluster of kind with one node, and what can be seen and broken of that node."""

import contextlib
import json
import secrets
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from trainedmodel_devkit import guard
from trainedmodel_devkit.errors import CommandFailed, StartFailed
from trainedmodel_devkit.kind.choice import cluster_config
from trainedmodel_devkit.kind.engine import Engine, run
from trainedmodel_devkit.processes import scratch
from trainedmodel_devkit.realnode.tasks import Tasks
from trainedmodel_devkit.waiting import wait_until

_CREATE_TIMEOUT_S = 900
"""kind may have to pull its node image first; its own steps have limits of their own."""
_LOAD_TIMEOUT_S = 300
_READY_TIMEOUT_S = 180
_DELETE_TIMEOUT_S = 120


class KindCluster:
    """A cluster with a name of its own, whose node is Ready; a context manager.

    Raises:
        CommandFailed: when entered, if kind cannot make it.
        StartFailed: when entered, if its node does not become Ready.
    """

    def __init__(self, engine: Engine, kind: Path, kubectl: Path, image: str | None) -> None:
        self.name = f"trainedmodel-e2e-{secrets.token_hex(4)}"
        self.engine = engine
        self.tasks = Tasks(self.in_node)
        self._kind = kind
        self.kubectl = kubectl
        self._image = image
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(scratch("kind-"))
            self.kubeconfig = folder / "kubeconfig"
            if self.engine.outlives_us:
                guard.watch_cluster(self.name, self._kind)
                stack.callback(guard.forget_cluster, self.name)
                stack.callback(self._delete)
            self._create(folder)
            self._wait_ready()
            self.store_host = self.engine.store_host()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def node(self) -> str:
        """The name of the node, and of its container."""
        return f"{self.name}-control-plane"

    def load_images(self, archives: Iterable[Path]) -> None:
        """Make images known to the node; pods must not ask for them to be pulled always."""
        for archive in archives:
            words = ("load", "image-archive", str(archive), f"--name={self.name}")
            run(self.engine, self._kind, *words, timeout_s=_LOAD_TIMEOUT_S)

    def in_node(self, *command: str) -> str:
        """Run a program in the node to its end and return its output.

        Raises:
            CommandFailed: with what it said.
        """
        return run(self.engine, "docker", "exec", self.node, *command)

    def restart_kubelet(self) -> None:
        """Restart the node's kubelet by the node's own systemd, and wait until it answers.

        A pod is reached from this machine through it.
        """
        self.in_node("systemctl", "restart", "kubelet")
        wait_until(self._kubelet_answers, what="the kubelet answers", details=self.logs)

    def container_root(self, pod: str, container: str) -> Path | None:
        """Return the root folder of a running container, as this machine sees it.

        None if it does not see it: Docker runs on another machine, or we are not root.

        Raises:
            CommandFailed: the container does not run.
        """
        state = run(self.engine, "docker", "inspect", "--format={{json .State}}", self.node)
        node_root = self.engine.process(int(json.loads(state)["Pid"])) / "root"
        try:
            is_here = (node_root / "etc" / "hostname").read_text().strip() == self.node
        except OSError:
            return None
        inner = self.tasks.find(pod, container).pid
        return node_root / "proc" / str(inner) / "root" if is_here else None

    def logs(self) -> str:
        """Return the ends of what the node's programs said, for a failed test."""
        units = ("--unit=kubelet", "--unit=containerd")
        try:
            return self.in_node("journalctl", "--no-pager", "--lines=80", *units)
        except CommandFailed as error:
            return str(error)

    def _create(self, folder: Path) -> None:
        config = folder / "cluster.json"  # YAML reads JSON
        config.write_text(json.dumps(cluster_config(self.engine.api_server)))
        words = [f"--name={self.name}", f"--kubeconfig={self.kubeconfig}", f"--config={config}"]
        if self._image is not None:
            words.append(f"--image={self._image}")
        run(self.engine, self._kind, "create", "cluster", *words, timeout_s=_CREATE_TIMEOUT_S)

    def _wait_ready(self) -> None:
        # kind itself waits on demand, and only warns when the time is over.
        wait = ("wait", "node", "--all", "--for=condition=Ready", f"--timeout={_READY_TIMEOUT_S}s")
        command = [str(self.kubectl), f"--kubeconfig={self.kubeconfig}", *wait]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise StartFailed(f"the node is not Ready: {result.stderr.strip()}\n{self.logs()}")

    def _kubelet_answers(self) -> bool:
        asked = ("curl", "--silent", "--fail", "http://127.0.0.1:10248/healthz")
        try:
            return self.in_node(*asked) == "ok"
        except CommandFailed:
            return False

    def _delete(self) -> None:
        words = (f"--name={self.name}", f"--kubeconfig={self.kubeconfig}")
        run(self.engine, self._kind, "delete", "cluster", *words, timeout_s=_DELETE_TIMEOUT_S)
