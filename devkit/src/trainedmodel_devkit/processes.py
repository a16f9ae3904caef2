"""Processes that this process started: their start, their log, their end.

Each runs in a process group of its own, known to the guard, so that its helpers (Triton's Python
stubs) end with it. A program that is killed cannot remove its shared memory, so that goes with the
process too. A signal goes only to a process that is still our unreaped child, so never to a
stranger that got its number.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trainedmodel_devkit import guard
from trainedmodel_devkit.errors import StartFailed
from trainedmodel_devkit.guardian import remove_shared_memory
from trainedmodel_devkit.waiting import GIVE_UP_AFTER_S, wait_until


class ManagedProcess:
    """One program: started, logged to a file, stopped; may be started again.

    `shared_memory` is the prefix of the names that the program gives to its shared memory, if it
    has any. No other program may use the prefix.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        shared_memory: str = "",
    ) -> None:
        self.name = name
        self.command = [str(word) for word in command]
        self.log_file = log
        self._env = None if env is None else dict(env)
        self._cwd = cwd
        self._shared_memory = shared_memory
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The process's number while it runs."""
        return self._child.pid if self._child is not None and self.poll() is None else None

    def start(self) -> None:
        """Start the program; its output is appended to the log."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        if self._shared_memory:
            guard.watch_memory(self._shared_memory)
        with self.log_file.open("ab") as log:
            child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )
        guard.watch_group(child.pid)
        self._child = child

    def poll(self) -> int | None:
        """Return the exit status, None while it runs (or was never started)."""
        with self._lock:
            child = self._child
            if child is None:
                return None
            if child.returncode is None and _has_ended(child.pid):
                # Not reaped yet, so the group's number is still ours: what the leader left behind
                # ends here.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                guard.forget_group(child.pid)
                if self._shared_memory:
                    remove_shared_memory(self._shared_memory)
                    guard.forget_memory(self._shared_memory)
            return child.returncode

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal: SIGKILL to the whole group, as when a container dies, else its leader."""
        with self._lock:
            child = self._child
            if child is None or child.returncode is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(child.pid, number)
                else:
                    os.kill(child.pid, number)

    def wait(self, timeout_s: float = GIVE_UP_AFTER_S) -> int:
        """Wait for the end of the program, and return its exit status.

        Raises:
            WaitedInVain: it runs on.
        """
        wait_until(
            lambda: self.poll() is not None,
            timeout_s,
            what=f"the end of {self.name}",
            every_s=0.01,
            details=lambda: self.log()[-3000:],
        )
        status = self.poll()
        if status is None:
            raise RuntimeError(f"{self.name} was started again while its end was awaited")
        return status

    def stop(self, grace_s: float = 10) -> int | None:
        """End the program: SIGTERM, and SIGKILL if it is still there after the grace period."""
        if self._child is None:
            return None
        self.kill(signal.SIGTERM)
        if not self._gone_within(grace_s):
            self.kill(signal.SIGKILL)
            self._gone_within(10)
        return self.poll()

    def log(self) -> str:
        """Return what the program said so far, all its lives together."""
        try:
            return self.log_file.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def check_alive(self) -> None:
        """Raise if the program has ended.

        Raises:
            StartFailed: with the end of its log.
        """
        status = self.poll()
        if status is not None:
            raise StartFailed(f"{self.name} ended with status {status}:\n{self.log()[-3000:]}")

    async def exited(self) -> int:
        """Wait for the end of the program without blocking the event loop."""
        child = self._child
        if child is None:
            raise RuntimeError(f"{self.name} was never started")
        with contextlib.suppress(ProcessLookupError):
            await _readable(os.pidfd_open(child.pid))
        status = await asyncio.to_thread(self.poll)
        if status is None:
            raise RuntimeError(f"{self.name} was started again while its end was awaited")
        return status

    def _gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


@contextlib.contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """Give a temporary folder that goes at the end, or with this process."""
    folder = Path(tempfile.mkdtemp(prefix=f"trainedmodel-{prefix}"))
    guard.watch_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        guard.forget_folder(folder)


def run_to_end(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end, and return its status and output.

    If this process is interrupted or killed meanwhile, or if the time is over, the program ends
    with all that it started: a compiler is a tree of processes.

    Raises:
        subprocess.TimeoutExpired: it did not end in time.
    """
    words = [str(word) for word in command]
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=None if env is None else dict(env),
        cwd=cwd,
        start_new_session=True,
    ) as child:
        guard.watch_group(child.pid)
        try:
            said, complained = child.communicate(timeout=timeout_s)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            raise
        finally:
            guard.forget_group(child.pid)
    return subprocess.CompletedProcess(words, child.returncode, said, complained)


def _has_ended(pid: int) -> bool:
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, pid, flags) is not None


async def _readable(descriptor: int) -> None:
    """Wait until a descriptor can be read (a pidfd: until the process has ended), then close it."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
