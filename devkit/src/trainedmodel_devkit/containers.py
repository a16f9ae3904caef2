"""One container of a pod: a process that is started again, with growing patience, when it dies."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable

from trainedmodel_devkit.processes import ManagedProcess

_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 5.0
_HEALTHY_AFTER_S = 10.0
"""A container that lived so long starts at the shortest backoff again."""


class Container:
    """Supervises one process until it is told to stop.

    `run` owns the process from its first start to its last end; the other methods only signal. So
    no start can slip in behind a stop, whatever is cancelled when.
    """

    def __init__(
        self,
        process: ManagedProcess,
        *,
        restart: bool,
        on_restart: Callable[[], Awaitable[None]],
    ) -> None:
        self._process = process
        self._restart = restart
        self._on_restart = on_restart
        self._stopping = asyncio.Event()
        self._started = asyncio.Event()
        self.starts = 0

    @property
    def name(self) -> str:
        """The container's name."""
        return self._process.name

    @property
    def restarts(self) -> int:
        """How often the process was started again."""
        return max(self.starts - 1, 0)

    @property
    def pid(self) -> int | None:
        """The process's number while it runs."""
        return self._process.pid

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process; SIGKILL ends its whole group, as when a container dies."""
        self._process.kill(number)

    async def log(self) -> str:
        """Return the output of all lives of the process."""
        return await asyncio.to_thread(self._process.log)

    async def run(self) -> None:
        """Start the process, and again whenever it ends, until `stop`."""
        loop = asyncio.get_running_loop()
        backoff = _FIRST_BACKOFF_S
        try:
            while not self._stopping.is_set():
                started = loop.time()
                await asyncio.to_thread(self._process.start)
                self.starts += 1
                self._started.set()
                if self.restarts:
                    await self._on_restart()
                if self._stopping.is_set():
                    return
                await self._process.exited()
                if not self._restart:
                    return
                backoff = _FIRST_BACKOFF_S if loop.time() - started > _HEALTHY_AFTER_S else backoff
                await self._pause(backoff)
                backoff = min(2 * backoff, _LONGEST_BACKOFF_S)
        finally:
            await asyncio.to_thread(self._process.stop, 0.5)

    async def stop(self, running: "asyncio.Task[None]", grace_s: float) -> None:
        """End the process for good: SIGTERM, after the grace period SIGKILL.

        `running` is the task of `run`.
        """
        self._stopping.set()
        self.kill(signal.SIGTERM)
        done, _ = await asyncio.wait([running], timeout=grace_s)
        if not done:
            self.kill(signal.SIGKILL)
            await asyncio.wait([running])

    async def restart(self) -> None:
        """End the process with SIGTERM and wait until it was started again."""
        await self._started.wait()  # for the first time, it may be about to be
        self._started.clear()
        self.kill(signal.SIGTERM)
        await self._started.wait()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
