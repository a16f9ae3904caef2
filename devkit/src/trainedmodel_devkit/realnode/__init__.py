"""A real Kubernetes node on this machine, without a container engine: containerd, kubelet, proxy.

Everything of the node lives in a *box*: network, mount and process namespaces of its own, whose
first process is ours. Bridges, iptables rules, mounts, containers and their shims are made inside,
so one kill of that process takes all of them away, whatever state they are in, and nothing of the
machine's own network is touched. What the kernel does not take back by itself, one pair of network
devices, one cgroup folder and one temporary folder, is removed by name.

    machine                                    box
    etcd, API server, controllers,             containerd ── pods on a bridge, 10.201.<n>.0/24
    scheduler, S3 store           ── veth ──   kubelet
    on 10.201.<n+1>.1                          kube-proxy (iptables of the box alone)

The machine has a route to the pods, so tests ask them directly, and the API server calls webhooks
by the addresses of their endpoints. Root only; see `prerequisites`.
"""

from trainedmodel_devkit.realnode.cluster import NodeCluster
from trainedmodel_devkit.realnode.prerequisites import DEBIAN_PACKAGES, check_prerequisites

__all__ = ["DEBIAN_PACKAGES", "NodeCluster", "check_prerequisites"]
