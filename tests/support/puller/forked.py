"""A puller that starts in milliseconds and dies before a chosen step (see `zygote`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.puller.processes import Puller

ZYGOTE = Path(__file__).with_name("zygote.py")


class Zygote:
    """The process that pullers are forked from; a context manager."""

    def __enter__(self) -> Zygote:
        self._process = subprocess.Popen(
            [sys.executable, str(ZYGOTE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()

    def fork(self, **spec: Any) -> ForkedProcess:
        """Start a puller."""
        return ForkedProcess(self, self.ask(spec)["pid"])

    def ask(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Send one line, read one line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(spec) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


class ForkedProcess:
    """One puller, with the part of `Popen` that tests use."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote = zygote
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, if it has ended."""
        if self._status is None:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z":
                self.wait()
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and reap it."""
        if self._status is None:
            self._status = self._zygote.ask({"wait": self.pid})["status"]
        assert self._status is not None
        return self._status

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        if self._status is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as the kernel would."""
        self.send_signal(signal.SIGKILL)


class ForkedPuller(Puller):
    """A puller made by a zygote."""

    def __init__(self, zygote: Zygote, root: Path, **details: Any) -> None:
        super().__init__(root, **details)
        self._zygote = zygote
        self.steps = Path(f"{self.log}.steps")

    def start(self, **spec: Any) -> None:
        """Start it; with `kill_at`, do not wait for an answer that may never come."""
        self.process = self._zygote.fork(  # type: ignore[assignment]
            argv=self._command[3:], env=self._env, log=str(self.log), **spec
        )
        if "kill_at" not in spec:
            self.until(lambda: self.status() is not None, "the puller to answer", 15)

    @property
    def has_died(self) -> bool:
        """Whether it has ended."""
        assert self.process is not None
        return self.process.poll() is not None
