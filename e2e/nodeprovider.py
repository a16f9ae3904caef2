"""The provider `node`: containerd, kubelet and control plane of the devkit on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from trainedmodel_devkit.binaries import control_plane_binaries
from trainedmodel_devkit.realnode import NodeCluster

from e2e.kubectl import Kubectl
from e2e.providers import Images, restart


class NodeProvider:
    """A cluster of one node whose every part can be looked at and killed."""

    def __init__(self, cluster: NodeCluster, images: Images) -> None:
        self.cluster = cluster
        self.images = images
        self.kubectl = Kubectl(control_plane_binaries().kubectl, cluster.control_plane.kubeconfig)
        self.store_host = cluster.machine_address

    @contextlib.contextmanager
    def pod_url(self, namespace: str, pod: str, port: int) -> Iterator[str]:
        """Return the pod's own address: this machine has a route to it."""
        address = self.kubectl.get("pod", pod, "-n", namespace)["status"]["podIP"]
        yield f"http://{address}:{port}"

    def kill_container(self, namespace: str, pod: str, container: str) -> None:
        """Kill all processes of a container with SIGKILL."""
        with restart(self.kubectl, namespace, pod, container):
            self.cluster.containerd.tasks.kill(pod, container)

    def restart_kubelet(self) -> None:
        """Kill the kubelet and start it again."""
        self.cluster.kubelet.restart()

    def resident_bytes(self, namespace: str, pod: str, container: str) -> int:
        """Sum the resident memory of the container's processes."""
        return self.cluster.containerd.tasks.resident_bytes(pod, container)

    def container_root(self, namespace: str, pod: str, container: str) -> Path:
        """Return the root of the container's first process, as the kernel shows it."""
        return self.cluster.container_root(pod, container)

    def logs(self) -> str:
        """Return the ends of the logs of kubelet, kube-proxy and containerd."""
        return self.cluster.logs()
