"""Nothing is left behind, even if the process that started everything is killed.

One small helper process (`guardian`) holds the reading end of a pipe. The parent tells it of each
process group, folder, cgroup, network device and cluster that it makes, of the shared memory of its
servers, and of each that it has removed. When the pipe closes, for whatever reason, the helper
kills what is still listed, newest first (an API server before its etcd), and then removes the rest.
This works where the parent-death signal of the kernel does not: that one follows the *thread* that
forked, and pool threads end long before their process. If the helper is killed as well, the next
run finds its journal and does the same; `python -m trainedmodel_devkit clean` does it at once.

What it cannot do: a parent killed in the millisecond between making something and telling of it
leaves that.
"""

import atexit
import contextlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from trainedmodel_devkit import guardian
from trainedmodel_devkit.cache import cache_folder
from trainedmodel_devkit.guardian import link_index, start_time

_lock = threading.Lock()
_helper: "subprocess.Popen[bytes] | None" = None
_journal: "tuple[Path, IO[str]] | None" = None


def watch_group(pid: int) -> None:
    """Kill the process group led by `pid` if this process dies."""
    _tell(f"+group {pid} {start_time(pid)}")


def forget_group(pid: int) -> None:
    """Take a group off the list: it has ended."""
    _tell(f"-group {pid}")


def watch_folder(path: Path) -> None:
    """Remove the folder if this process dies."""
    _tell(f"+folder {path}")


def forget_folder(path: Path) -> None:
    """Take a folder off the list: it is gone."""
    _tell(f"-folder {path}")


def watch_cgroup(path: Path) -> None:
    """Remove the cgroup, once it is empty, if this process dies. Its name must be used once."""
    _tell(f"+cgroup {path}")


def forget_cgroup(path: Path) -> None:
    """Take a cgroup off the list: it is gone."""
    _tell(f"-cgroup {path}")


def watch_link(name: str) -> None:
    """Remove the network device if this process dies."""
    _tell(f"+link {name} {link_index(name)}")


def forget_link(name: str) -> None:
    """Take a network device off the list: it is gone."""
    _tell(f"-link {name}")


def watch_memory(prefix: str) -> None:
    """Remove the shared memory of this prefix if this process dies. Nobody else may use it."""
    _tell(f"+memory {prefix}")


def forget_memory(prefix: str) -> None:
    """Take shared memory off the list: it is gone."""
    _tell(f"-memory {prefix}")


def watch_cluster(name: str, kind: Path) -> None:
    """Let kind delete a cluster if this process dies. Its name must be used once."""
    _tell(f"+cluster {name} {kind}")


def forget_cluster(name: str) -> None:
    """Take a cluster off the list: it is gone."""
    _tell(f"-cluster {name}")


def mend() -> int:
    """Remove what killed runs have left, and return how many runs that were."""
    return len(guardian.mend(_journals()))


def _journals() -> Path:
    folder = cache_folder() / "guards"
    folder.mkdir(exist_ok=True)
    return folder


def _tell(line: str) -> None:
    global _journal  # noqa: PLW0603 - one journal for each process
    with _lock:
        if _journal is None or not _journal[0].exists():
            guardian.mend(_journals())
            _journal = guardian.open_journal(_journals())
        # The journal first: the helper may be killed before it has read a line.
        with contextlib.suppress(OSError):  # a full disk: the helper knows all the same
            _journal[1].write(f"{line}\n")
            _journal[1].flush()
        pipe = _start(*_journal).stdin
        if pipe is not None:
            pipe.write(line.encode() + b"\n")
            pipe.flush()


def _start(journal: Path, lock: IO[str]) -> "subprocess.Popen[bytes]":
    global _helper  # noqa: PLW0603 - one guard for each process
    if _helper is None or _helper.poll() is not None:
        # A session of its own: Ctrl-C at the terminal reaches the parent, which then cleans up in
        # order. The journal's lock goes along: it holds until both have ended.
        _helper = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, str(journal)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            pass_fds=(lock.fileno(),),
        )
        atexit.register(_stop, _helper)
    return _helper


def _stop(helper: "subprocess.Popen[bytes]") -> None:
    global _journal  # noqa: PLW0603 - one journal for each process
    if helper.stdin is not None:
        with contextlib.suppress(OSError):
            helper.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        helper.wait(10)
    with _lock:
        if _journal is not None:
            with contextlib.suppress(OSError):
                _journal[1].close()
            _journal = None
