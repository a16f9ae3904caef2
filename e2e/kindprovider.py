"""The provider `kind`: a cluster in Docker whose node can be looked at and broken."""

from __future__ import annotations

from pathlib import Path

from trainedmodel_devkit.kind import KindCluster

from e2e.kubectl import Kubectl
from e2e.providers import AnyCluster, Images, NotHere, restart


class KindProvider(AnyCluster):
    """A cluster of kind; its pods are reached by kubectl's port-forward, as in any cluster."""

    def __init__(self, cluster: KindCluster, images: Images) -> None:
        super().__init__(Kubectl(cluster.kubectl, cluster.kubeconfig), images, cluster.store_host)
        self.cluster = cluster

    def kill_container(self, namespace: str, pod: str, container: str) -> None:
        """Kill all processes of a container with SIGKILL."""
        with restart(self.kubectl, namespace, pod, container):
            self.cluster.tasks.kill(pod, container)

    def restart_kubelet(self) -> None:
        """Restart the kubelet in the node's container."""
        self.cluster.restart_kubelet()

    def resident_bytes(self, namespace: str, pod: str, container: str) -> int:
        """Sum the resident memory of the container's processes."""
        return self.cluster.tasks.resident_bytes(pod, container)

    def container_root(self, namespace: str, pod: str, container: str) -> Path:
        """Return the root of the container's first process, as the kernel shows it.

        Raises:
            NotHere: the node's processes are not seen from here.
        """
        found = self.cluster.container_root(pod, container)
        if found is None:
            raise NotHere("Docker runs on another machine, or this process is not root")
        return found

    def logs(self) -> str:
        """Return the ends of the logs of kubelet and containerd."""
        return self.cluster.logs()
