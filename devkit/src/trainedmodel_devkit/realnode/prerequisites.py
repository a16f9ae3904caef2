"""What a machine must have before a node can be made on it, and the one check of it."""

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from trainedmodel_devkit.errors import MissingTool

DEBIAN_PACKAGES = tuple(
    Path(__file__).with_name("debian-packages.txt").read_text(encoding="utf-8").split()
)
"""Installing these is enough on Debian 12. A plain file, so that a shell can read it too."""

_PROGRAMS = (
    "buildah",
    "conntrack",
    "containerd",
    "ctr",
    "ip",
    "iptables",
    "mmdebstrap",
    "nsenter",
    "runc",
    "unshare",
)
CNI_FOLDER = "/usr/lib/cni"
_CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def check_prerequisites() -> None:
    """Say what is missing for a real node.

    Raises:
        MissingTool: not Linux, not root, or programs are missing; the message says what to install.
    """
    check_machine(
        "a real node", _PROGRAMS, DEBIAN_PACKAGES, [f"{CNI_FOLDER}/{one}" for one in _CNI_PLUGINS]
    )


def check_machine(
    what: str, programs: Iterable[str], packages: Iterable[str], files: Iterable[str] = ()
) -> None:
    """Say what is missing for something that makes namespaces and mounts on this machine.

    Raises:
        MissingTool: not Linux, not root, or programs are missing; the message says what to install.
    """
    if sys.platform != "linux":
        raise MissingTool(f"{what} needs Linux: namespaces, cgroups, containerd")
    if os.geteuid() != 0:
        raise MissingTool(
            f"{what} needs root (namespaces, mounts, cgroups): run as root, or use another provider"
        )
    missing = [one for one in programs if shutil.which(one, path=SYSTEM_PATH) is None]
    missing += [one for one in files if not os.access(one, os.X_OK)]
    if missing:
        raise MissingTool(
            f"{what} needs {', '.join(missing)}: "
            f"apt-get install --no-install-recommends {' '.join(packages)}"
        )
