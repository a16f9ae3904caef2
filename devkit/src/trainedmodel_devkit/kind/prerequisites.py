"""What a machine must have to build a node image and to run a Docker daemon of its own."""

from trainedmodel_devkit.realnode.prerequisites import DEBIAN_PACKAGES, check_machine

PACKAGES = (*DEBIAN_PACKAGES, "docker.io")
_BUILDERS = ("buildah", "mmdebstrap")
_ENGINE = ("containerd", "docker", "dockerd", "ip", "iptables", "nsenter", "runc", "unshare")


def check_builders() -> None:
    """Say what is missing to build images.

    Raises:
        MissingTool: the message says what to install.
    """
    check_machine("building images", _BUILDERS, DEBIAN_PACKAGES)


def check_engine() -> None:
    """Say what is missing to run kind where no Docker answers.

    Raises:
        MissingTool: the message says what to install.
    """
    check_machine("kind without a Docker that answers", (*_BUILDERS, *_ENGINE), PACKAGES)
