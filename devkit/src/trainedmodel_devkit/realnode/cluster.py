"""A cluster of one real node: control plane on the machine, the node in a box."""

import contextlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from trainedmodel_contract.conditions import is_true

from trainedmodel_devkit.controlplane import NODE_NAME, ControlPlane
from trainedmodel_devkit.errors import StartFailed
from trainedmodel_devkit.realnode.box import Box
from trainedmodel_devkit.realnode.containerd import Containerd
from trainedmodel_devkit.realnode.images import pause_image
from trainedmodel_devkit.realnode.kubelet import Kubelet, KubeProxy
from trainedmodel_devkit.realnode.prerequisites import check_prerequisites

_READY_TIMEOUT_S = 120


class NodeCluster:
    """A control plane and one node that is Ready; a context manager.

    Raises:
        MissingTool: when entered, if this machine cannot have a node.
    """

    def __init__(self, *, audit_log: bool = False) -> None:
        self._audited = audit_log
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        check_prerequisites()
        pause = pause_image()
        with contextlib.ExitStack() as stack:
            self.box = stack.enter_context(Box())
            self.machine_address = self.box.addresses.machine
            self.control_plane = stack.enter_context(
                ControlPlane(audit_log=self._audited, node_facing=self.machine_address)
            )
            self.containerd = Containerd(self.box)
            self.containerd.start()
            self.containerd.load(pause)
            self.kubelet = Kubelet(self.box, self.containerd, self.control_plane)
            self.kubelet.start()
            self._proxy = KubeProxy(self.box, self.control_plane)
            self._proxy.start()
            self._wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def load_images(self, archives: Iterable[Path]) -> None:
        """Make images known to the node; pods must use them with `imagePullPolicy: Never`."""
        for archive in archives:
            self.containerd.load(archive)

    def logs(self) -> str:
        """Return the ends of what the node's programs said, for a failed test."""
        parts = (("kubelet", self.kubelet), ("kube-proxy", self._proxy))
        texts = [f"-- {name}\n{part.log()[-5000:]}" for name, part in parts]
        return "\n".join([*texts, f"-- containerd\n{self.containerd.log()[-3000:]}"])

    def container_root(self, pod: str, container: str) -> Path:
        """Return a running container's root folder, as this machine sees it.

        Raises:
            CommandFailed: it does not run.
        """
        found = self.containerd.tasks.find(pod, container)
        return self.box.path("/proc") / str(found.pid) / "root"

    def is_ready(self) -> bool:
        """Say whether the API knows the node as Ready."""
        names = ("get", "nodes", NODE_NAME, "--ignore-not-found", "-o", "json")
        text = self.control_plane.kubectl(*names)
        return bool(text) and is_true(json.loads(text)["status"], "Ready")

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not self.is_ready():
            self.kubelet.check_alive()
            self._proxy.check_alive()
            if time.monotonic() > deadline:
                raise StartFailed(f"the node is not Ready:\n{self.logs()}")
            time.sleep(0.2)
