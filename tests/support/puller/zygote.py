"""Pullers that start in milliseconds and die at a chosen step.

A process that has imported everything forks one puller for each line of its input. In the child,
an audit hook counts each step that changes the outside world (a file made, opened for writing,
renamed or removed, a connection made, an exchange of folders) and ends the process with SIGKILL
before the n-th. Nothing of this is known to the puller.

    in:  {"argv": [...], "env": {...}, "log": path, "kill_at": n or null, "clock_jump_s": seconds,
          "uid": user and group, "umask": mask}
    out: {"pid": n}
    in:  {"wait": pid}        out: {"status": exit status, negative for a signal}
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

CHANGES = frozenset(
    {
        *("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink"),
        *("os.truncate", "os.utime", "shutil.rmtree", "socket.connect"),
    }
)


class Killer:
    """Counts steps, and ends the process before one of them."""

    def __init__(self, kill_at: int | None, journal: str) -> None:
        self._kill_at = kill_at
        self._counter = itertools.count()
        self._lock = threading.Lock()
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def step(self, what: str) -> None:
        """Count one step; the last line of the journal is the one that was not taken."""
        with self._lock:
            number = next(self._counter)
            os.write(self._journal, f"{number} {what}\n".encode())
            if number == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take an audit event."""
        if event in CHANGES:
            self.step(f"{event} {arguments[:2]!r:.200}")
        elif event == "open" and _is_writing(arguments[2]) and not isinstance(arguments[0], int):
            self.step(f"open {arguments[0]!r:.200}")


def _is_writing(flags: Any) -> bool:
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def become_puller(spec: dict[str, Any]) -> None:
    """Run a puller in this process; never returns."""
    os.setpgid(0, 0)
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(spec["env"])
    from trainedmodel_puller.cli import command as program
    from trainedmodel_puller.volume import durable, layouts, staging

    os.umask(spec.get("umask", 0o022))
    if "uid" in spec:
        os.setgroups([])
        os.setgid(spec["uid"])
        os.setuid(spec["uid"])
    jump_s = spec.get("clock_jump_s")
    if jump_s:
        began, real = time.monotonic(), time.time
        time.time = lambda: real() + (jump_s if time.monotonic() - began > 1.0 else 0)
    if "kill_at" in spec:
        killer = Killer(spec["kill_at"], spec["log"] + ".steps")
        real_exchange = durable.exchange

        def exchange(one: Path, other: Path, trash: Path) -> None:
            killer.step(f"exchange {one} {other}")
            real_exchange(one, other, trash)

        for module in (layouts, staging):
            vars(module)["exchange"] = exchange
        sys.addaudithook(killer.hook)
    code = 1
    try:
        program.main(spec["argv"], standalone_mode=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Fork a puller a line, until the input ends; then end all of them."""
    import kubernetes.aio  # noqa: F401
    import obstore.store  # noqa: F401

    alive: set[int] = set()
    for line in sys.stdin:
        spec = json.loads(line)
        if "wait" in spec:
            _, status = os.waitpid(spec["wait"], 0)
            alive.discard(spec["wait"])
            answer = {"status": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                become_puller(spec)
            alive.add(pid)
            answer = {"pid": pid}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
