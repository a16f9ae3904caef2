"""The first process of a box: makes its mounts, reaps what its processes leave, and is its life.

When this process ends, for whatever reason, the kernel kills all others of the box and drops its
mounts and network. It is run with the standard library alone: it must import nothing of the
project. Arguments: the box's folder.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

_OWN_FOLDERS = ("/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods")
"""Places that node programs write to whatever they are told; each is a folder of the box."""


def main() -> None:
    """Prepare the box, say so by a file, and reap until the end."""
    box = Path(sys.argv[1])
    # Nothing that others left in /run may be seen here (sockets of a containerd of the machine),
    # and nothing of ours there.
    _mount("-t", "tmpfs", "tmpfs", "/run")
    for place in _OWN_FOLDERS:
        Path(place).mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(_made(box / "own" / place.lstrip("/"))), place)
    # Pods on one node reach each other and the machine through it.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    (box / "up").touch()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.sigtimedwait({signal.SIGCHLD}, 1)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    main()
