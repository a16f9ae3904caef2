"""The first process of a box: makes its mounts, reaps what its processes leave, and is its life.

When this process ends, for whatever reason, the kernel kills all others of the box and drops its
mounts and network. It is run with the standard library alone: it must import nothing of the
project. Arguments: the box's folder, and further places that get a folder of the box.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

_OWN_FOLDERS = ("/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods")
"""Places that node programs write to whatever they are told; each is a folder of the box."""

_OWN_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What a kubelet sets. They hold for the whole machine, so it gets files of the box to write to."""


def main() -> None:
    """Prepare the box, say so by a file, and reap until the end."""
    box = Path(sys.argv[1])
    # Nothing that others left in /run may be seen here (sockets of a containerd of the machine),
    # and nothing of ours there.
    _mount("-t", "tmpfs", "tmpfs", "/run")
    _give_own_settings(box / "settings")
    for place in (*_OWN_FOLDERS, *sys.argv[2:]):
        _give_own_folder(Path(place), box / "own")
    # Pods on one node reach each other and the machine through it. It is the box's own setting.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    (box / "up").touch()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.sigtimedwait({signal.SIGCHLD}, 1)


def _give_own_folder(place: Path, own: Path) -> None:
    """Put a folder of the box at a place; nothing is made there on the machine."""
    if not place.exists():
        parent = next(one for one in place.parents if one.exists())
        # The box's view of the nearest folder that exists becomes one that can be written to.
        layers = _made(own / f"layers{str(parent).replace('/', '-')}")
        # A layer cannot lie on every file system; a tmpfs serves always.
        _mount("-t", "tmpfs", "tmpfs", str(layers))
        upper, work = _made(layers / "upper"), _made(layers / "work")
        options = f"lowerdir={parent},upperdir={upper},workdir={work}"
        _mount("-t", "overlay", "overlay", "-o", options, str(parent))
        place.mkdir(parents=True, exist_ok=True)
    _mount("--bind", str(_made(own / str(place).lstrip("/"))), str(place))


def _give_own_settings(own: Path) -> None:
    """Make the machine's settings read-only here, but for those of the box's own network.

    What node programs insist on setting is written to a file of the box.
    """
    settings = Path("/proc/sys")
    network = _made(own / "net")
    _mount("--bind", str(settings / "net"), str(network))
    _mount("--bind", str(settings), str(settings))
    _mount("-o", "remount,bind,ro", str(settings))
    _mount("--bind", str(network), str(settings / "net"))
    for name, value in _OWN_SETTINGS.items():
        if (settings / name).exists():
            file = own / name.replace("/", ".")
            file.write_text(f"{value}\n")
            _mount("--bind", str(file), str(settings / name))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    main()
