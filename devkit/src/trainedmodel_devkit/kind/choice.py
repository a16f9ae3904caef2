"""Which Docker runs a cluster, and which image its node is made of: decisions, and no more."""

from dataclasses import dataclass

from trainedmodel_devkit.errors import MissingTool

NODE_IMAGE_VARIABLE = "KIND_NODE_IMAGE"
NODE_IMAGE = "localhost/trainedmodel-kind-node:dev"
"""The image that is built here. As the value of the variable it means: build it, pull nothing."""


@dataclass(frozen=True)
class Choice:
    """How a cluster is made.

    Attributes:
        own_engine: A Docker daemon is started for the cluster alone.
        image: The node image; None for kind's default.
    """

    own_engine: bool
    image: str | None

    @property
    def is_built(self) -> bool:
        """Whether the node image is built here."""
        return self.image == NODE_IMAGE


def choose(wanted: str | None, complaint: str | None) -> Choice:
    """Choose engine and image.

    1. Docker answers: it is used, with the image that is wanted, or else kind's default.
    2. It does not: a daemon of our own has no network, so the image is the one built here.
    3. It does not, and another image is wanted: that cannot be.

    Args:
        wanted: The image that the user names; empty or None for none.
        complaint: Why no Docker answers; None if one does.

    Raises:
        MissingTool: rule 3; the message carries Docker's complaint.
    """
    if complaint is None:
        return Choice(own_engine=False, image=wanted or None)
    if wanted and wanted != NODE_IMAGE:
        raise MissingTool(
            f"{NODE_IMAGE_VARIABLE}={wanted} needs Docker, and none answers ({complaint}): start "
            f"it, or unset {NODE_IMAGE_VARIABLE} to use an image that is built here"
        )
    return Choice(own_engine=True, image=NODE_IMAGE)


def cluster_config(api_server: str | None) -> dict[str, object]:
    """Describe a cluster for kind.

    Args:
        api_server: An address of the engine's machine at which the API server listens; None for
            kind's own choice, a free port of this machine's loopback address.
    """
    config: dict[str, object] = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4"}
    if api_server is not None:
        # kind looks for a free port on this machine, where the address is not.
        config["networking"] = {"apiServerAddress": api_server, "apiServerPort": 6443}
    return config


def ipv4_gateway(gateways: str) -> str:
    """Choose the IPv4 address of a Docker network's gateways, in whatever order they are listed.

    Raises:
        MissingTool: there is none.
    """
    found = [one for one in gateways.split() if "." in one]
    if not found:
        raise MissingTool(
            f"Docker's network kind has no IPv4 gateway: {gateways.strip() or 'none'}"
        )
    return found[0]
