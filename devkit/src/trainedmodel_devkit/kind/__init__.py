"""kind (Kubernetes in Docker) for the end-to-end suite, with Docker and a network or without both.

Where Docker answers, it is used, and the node image is kind's default or `KIND_NODE_IMAGE`. Where
none answers, everything is made here: kind and Kubernetes are compiled from their Go modules, the
node image is built of Debian packages and those programs (`nodeimage`), and a Docker daemon runs in
a box of its own (`engine`, see `realnode.box`), which ends with all that is in it.

    machine                        box
    pytest, kubectl, kind    ──    dockerd ── the node, a container ── pods
    S3 store                 veth

`choice` decides, `cluster` is one cluster with its node, `lifecycle` brings all of it together.
"""

from trainedmodel_devkit.kind.choice import NODE_IMAGE, NODE_IMAGE_VARIABLE
from trainedmodel_devkit.kind.cluster import KindCluster
from trainedmodel_devkit.kind.lifecycle import kind_cluster, prepare_kind

__all__ = ["NODE_IMAGE", "NODE_IMAGE_VARIABLE", "KindCluster", "kind_cluster", "prepare_kind"]
