"""Nothing is left behind, even if the process that started everything is killed.

One small helper process holds the reading end of a pipe. The parent tells it of each process group
and folder that it makes and of each that it has removed; when the pipe closes, for whatever reason,
the guard kills what is still listed, newest first (an API server before its etcd), and then removes
the folders. This works where the parent-death signal of the kernel does not: that one follows the
*thread* that forked, and pool threads end long before their process. What it cannot do: a parent
killed in the millisecond between starting a process and telling of it leaves that process.

This file is also the helper's program, run with the standard library alone: it must import nothing
of the project.
"""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

_lock = threading.Lock()
_helper: "subprocess.Popen[bytes] | None" = None


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


def start_time(pid: int) -> str:
    """Return the kernel's start tick of a process, empty if there is none.

    Together with the pid it names one process for ever.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _tell(line: str) -> None:
    with _lock:
        pipe = _start().stdin
        if pipe is not None:
            pipe.write(line.encode() + b"\n")
            pipe.flush()


def _start() -> "subprocess.Popen[bytes]":
    global _helper  # noqa: PLW0603 - one guard for each process
    if _helper is None or _helper.poll() is not None:
        # A session of its own: Ctrl-C at the terminal reaches the parent, which then cleans up in
        # order.
        _helper = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        atexit.register(_stop, _helper)
    return _helper


def _stop(helper: "subprocess.Popen[bytes]") -> None:
    if helper.stdin is not None:
        with contextlib.suppress(OSError):
            helper.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        helper.wait(10)


def _main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: dict[int, str] = {}
    folders: dict[str, None] = {}
    for raw in sys.stdin.buffer:
        verb, _, rest = raw.decode().rstrip("\n").partition(" ")
        if verb == "+group":
            pid, _, started = rest.partition(" ")
            groups[int(pid)] = started
        elif verb == "-group":
            groups.pop(int(rest), None)
        elif verb == "+folder":
            folders[rest] = None
        elif verb == "-folder":
            folders.pop(rest, None)
    for pid, started in reversed(groups.items()):
        # A group outlives its leader, and its number is not given away meanwhile; another start
        # time means another process.
        if start_time(pid) in ("", started):
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
    for folder in reversed(folders):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _main()
