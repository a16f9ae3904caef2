"""What a machine must have before a node can be made on it: the one list of it."""

import os
import shutil
import sys
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
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def check_prerequisites() -> None:
    """Say what is missing for a real node.

    Raises:
        MissingTool: not Linux, not root, or programs are missing; the message says what to install.
    """
    if sys.platform != "linux":
        raise MissingTool("a real node needs Linux: namespaces, cgroups, containerd")
    if os.geteuid() != 0:
        raise MissingTool(
            "a real node needs root (namespaces, mounts, cgroups): run as root, "
            "or use another provider"
        )
    missing = [one for one in _PROGRAMS if shutil.which(one, path=_SYSTEM_PATH) is None]
    missing += [
        f"{CNI_FOLDER}/{one}"
        for one in _CNI_PLUGINS
        if not os.access(f"{CNI_FOLDER}/{one}", os.X_OK)
    ]
    if missing:
        raise MissingTool(
            f"a real node needs {', '.join(missing)}: "
            f"apt-get install --no-install-recommends {' '.join(DEBIAN_PACKAGES)}"
        )
