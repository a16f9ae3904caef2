"""kubelet and kube-proxy in a box: their configuration, their start, a kubelet's restart."""

import signal

import yaml

from trainedmodel_devkit.binaries import node_binaries
from trainedmodel_devkit.controlplane import NODE_NAME, ControlPlane
from trainedmodel_devkit.realnode.box import Box
from trainedmodel_devkit.realnode.containerd import Containerd


class Kubelet:
    """The node agent. A restart leaves the containers alone, as on any node."""

    def __init__(self, box: Box, containerd: Containerd, control_plane: ControlPlane) -> None:
        folder = box.folder / "kubelet"
        folder.mkdir()
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{box.cgroup}",
            "cgroupsPerQOS": True,
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{containerd.socket}",
            # What is full on the machine is not full in the box.
            "evictionHard": {"memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            "maxPods": 200,
            "nodeStatusUpdateFrequency": "4s",
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
            "podLogsDir": "/var/log/pods",
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        self._process = box.process(
            "kubelet",
            [
                node_binaries().kubelet,
                f"--config={folder / 'config.yaml'}",
                f"--kubeconfig={control_plane.kubeconfig_for_node('kubelet')}",
                f"--hostname-override={NODE_NAME}",
                f"--node-ip={box.addresses.node}",
                f"--root-dir={folder / 'root'}",
                f"--cert-dir={folder / 'certs'}",
            ],
        )

    def start(self) -> None:
        """Start it."""
        self._process.start()

    def restart(self) -> None:
        """Kill it and start it again."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Kill it; its containers run on."""
        self._process.kill(signal.SIGKILL)
        self._process.stop(grace_s=10)

    def check_alive(self) -> None:
        """Raise if it has ended."""
        self._process.check_alive()

    def log(self) -> str:
        """Return what it said, all its lives together."""
        return self._process.log()


class KubeProxy:
    """What makes Services' addresses lead to pods, by iptables of the box."""

    def __init__(self, box: Box, control_plane: ControlPlane) -> None:
        folder = box.folder / "kube-proxy"
        folder.mkdir()
        kubeconfig = control_plane.kubeconfig_for_node("kube-proxy")
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "hostnameOverride": NODE_NAME,
            # The machine's own limits stay as they are.
            "conntrack": {
                "maxPerCore": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
            # Pods of one bridge would answer each other past the node, which has rewritten the
            # address that they were asked at.
            "iptables": {"masqueradeAll": True, "minSyncPeriod": "0s"},
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        self._process = box.process(
            "kube-proxy", [node_binaries().kube_proxy, f"--config={folder / 'config.yaml'}"]
        )

    def start(self) -> None:
        """Start it."""
        self._process.start()

    def check_alive(self) -> None:
        """Raise if it has ended."""
        self._process.check_alive()

    def log(self) -> str:
        """Return what it said."""
        return self._process.log()
