"""The guard's own process: removes what its parent made, once the parent is gone.

What the parent makes and removes again is in a journal, a line each: `+folder PATH` and
`-folder PATH`.
This process reads it, and further lines from standard input. When the input ends, for whatever
reason, it removes what is still on the list, and then the journal.

If this process is killed too, the journal stays, and the next run removes what it lists. A journal
is locked as long as its parent or its guard lives. What is on it is removed only if it is still the
very same thing: a process by its start time, a network device by its index. Folders, cgroups and
clusters have names that are used once.

Run with the standard library alone: it must import nothing of the project. Argument: the journal.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SHARED_MEMORY = Path("/dev/shm")
_SUFFIX = ".journal"
_CGROUP_TIMEOUT_S = 5.0
_CLUSTER_TIMEOUT_S = 60.0
_OUTLIVE_A_BOOT = ("cluster", "folder")


class Made:
    """What was made and is not removed yet, in the order in which it was made."""

    def __init__(self) -> None:
        self._boot = ""
        self._things: dict[tuple[str, str], str] = {}

    def take(self, line: str) -> None:
        """Read one line: a sign, a kind, a name, and what tells the thing from its successors."""
        verb, _, rest = line.rstrip("\n").partition(" ")
        sign, kind = verb[:1], verb[1:]
        if verb == "boot":
            self._boot = rest
        elif kind in ("folder", "cgroup", "memory"):
            self._set(sign, kind, rest, "")
        elif kind in ("group", "link", "cluster"):
            name, _, identity = rest.partition(" ")
            self._set(sign, kind, name, identity)

    def remove(self) -> None:
        """Remove everything, newest first: processes before what they use."""
        is_this_boot = self._boot in ("", boot())
        for wanted, remover in _REMOVERS:
            for (kind, name), identity in reversed(self._things.items()):
                if kind == wanted and (is_this_boot or kind in _OUTLIVE_A_BOOT):
                    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
                        remover(name, identity)
        self._things.clear()

    def _set(self, sign: str, kind: str, name: str, identity: str) -> None:
        if sign == "+":
            self._things[kind, name] = identity
        else:
            self._things.pop((kind, name), None)


def start_time(pid: int) -> str:
    """Return the kernel's start tick of a process, empty if there is none.

    Together with the pid it names one process for ever.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def link_index(name: str) -> str:
    """Return the number of a network device, empty if there is none; no other gets it again."""
    try:
        return Path(f"/sys/class/net/{name}/ifindex").read_text().strip()
    except OSError:
        return ""


def boot() -> str:
    """Return the name of this boot of the machine: numbers of processes hold for one."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def mend(journals: Path) -> list[Path]:
    """Remove what dead guards have left, and return their journals."""
    found = []
    for path in sorted(journals.glob(f"*{_SUFFIX}")):
        with contextlib.suppress(OSError, ValueError), path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink == 0:
                continue  # another one was here first
            made = Made()
            for line in file:
                made.take(line)
            made.remove()
            path.unlink()
            found.append(path)
    return found


def open_journal(journals: Path) -> tuple[Path, IO[str]]:
    """Make a journal that is locked from the moment at which others can see it."""
    number, draft = tempfile.mkstemp(prefix=".", dir=journals)
    file = os.fdopen(number, "w", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(f"boot {boot()}\n")
    file.flush()
    path = journals / f"{Path(draft).name.lstrip('.')}-{os.getpid()}{_SUFFIX}"
    Path(draft).rename(path)
    return path, file


def _end_group(name: str, identity: str) -> None:
    # A group outlives its leader, and its number is not given away meanwhile; another start time
    # means another process.
    if start_time(int(name)) in ("", identity):
        os.killpg(int(name), signal.SIGKILL)


def _remove_link(name: str, identity: str) -> None:
    if identity and link_index(name) == identity:
        command = ["ip", "link", "delete", name]
        subprocess.run(command, capture_output=True, check=False, timeout=10)


def _remove_cgroup(name: str, _identity: str) -> None:
    remove_cgroup(Path(name))


def remove_cgroup(top: Path) -> None:
    """Remove an emptied cgroup, deepest first; the kernel needs an instant to let it go."""
    deadline = time.monotonic() + _CGROUP_TIMEOUT_S
    while top.is_dir() and time.monotonic() < deadline:
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        if top.is_dir():
            time.sleep(0.05)


def _remove_memory(name: str, _identity: str) -> None:
    remove_shared_memory(name)


def remove_shared_memory(prefix: str) -> None:
    """Remove the shared memory whose names begin with a prefix, which must not be empty."""
    if not prefix:
        raise ValueError("an empty prefix would remove the shared memory of all programs")
    for path in _SHARED_MEMORY.iterdir():
        if path.name.startswith(prefix):
            path.unlink(missing_ok=True)


def _remove_folder(name: str, _identity: str) -> None:
    shutil.rmtree(name, ignore_errors=True)


def _delete_cluster(name: str, kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # A kubeconfig of its own: kind takes the cluster out of the user's one otherwise.
        own = f"--kubeconfig={folder}/none"
        command = [kind, "delete", "cluster", f"--name={name}", own]
        subprocess.run(command, capture_output=True, check=False, timeout=_CLUSTER_TIMEOUT_S)


# A cluster comes after the processes: kind may be making it when it is killed.
_REMOVERS = (
    ("group", _end_group),
    ("memory", _remove_memory),
    ("cluster", _delete_cluster),
    ("link", _remove_link),
    ("cgroup", _remove_cgroup),
    ("folder", _remove_folder),
)


def _main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    journal = Path(sys.argv[1])
    made = Made()
    for line in journal.read_text(encoding="utf-8").splitlines():
        made.take(line)
    for raw in sys.stdin.buffer:
        made.take(raw.decode())
    made.remove()
    journal.unlink(missing_ok=True)


if __name__ == "__main__":
    _main()
