"""Threads for calls to the outside that may never return: DNS, mounted claims, blocking clients.

Such a call cannot be cancelled. Its caller stops waiting, and the thread is *left behind* until the
call returns. So these calls never share a pool with the event loop, the volume or the endpoints,
and each place has its own limit:

- each *place* (a host, a claim) has a limit of its own, which counts threads that were left behind;
- a limit on all threads together bounds memory, and the next free one goes to the place with the
  fewest, so that a place with many calls does not hold up a place with one;
- the threads are daemons: the process ends without waiting for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from trainedmodel_puller import metrics
from trainedmodel_puller.storage.transfer.fair_limiter import FairLimiter

T = TypeVar("T")

#: Most threads of all places together; a thread that waits costs some 50 KiB.
MOST_THREADS: Final = 256
#: Most threads of one place: as many as there may be connections to stores (`--max-connections`).
MOST_OF_A_PLACE: Final = 32
#: An idle thread ends after so many seconds.
_IDLE_S: Final = 5.0
#: Names that are looked up at once. A lookup that gets no answer takes the system up to a minute.
_MOST_LOOKUPS: Final = 128


class OutsideThreads:
    """Runs blocking calls to the outside, with a limit for each place; for one event loop."""

    def __init__(self, most: int = MOST_THREADS, most_of_a_place: int = MOST_OF_A_PLACE) -> None:
        self._limit = FairLimiter(most)
        self._most_of_a_place = most_of_a_place
        self._places: dict[str, tuple[FairLimiter, list[int]]] = {}
        self._workers = _Workers()

    async def run(self, place: str, call: Callable[[], T]) -> T:
        """Run a call in a thread of its place, and wait for it.

        A caller that is cancelled leaves at once, whether the call has begun or waits for a thread.
        """
        limit, users = self._places.setdefault(place, (FairLimiter(self._most_of_a_place), [0]))
        users[0] += 1
        try:
            await limit.acquire(place)
            try:
                await self._limit.acquire(place)
            except BaseException:
                limit.give(place)
                raise
        except BaseException:
            self._forget(place, users)
            raise

        def ended() -> None:
            self._limit.give(place)
            limit.give(place)
            self._forget(place, users)

        return await self._workers.start(call, ended)

    def leave(self, call: Callable[[], object]) -> None:
        """Run a call in a thread and wait for nothing, its errors included; from any thread."""
        self._workers.put(call)

    def _forget(self, place: str, users: list[int]) -> None:
        users[0] -= 1
        if not users[0]:
            self._places.pop(place, None)


class Lookups:
    """Resolves names as the system does (`/etc/hosts`, nsswitch, search domains), in such threads.

    One lookup of a name runs at a time, and further requests wait for the same answer. So a name
    without an answer costs one thread, however often it is tried.
    """

    def __init__(self, most: int = _MOST_LOOKUPS) -> None:
        self._most = most
        self._workers = _Workers()
        self._under_way: dict[tuple[Any, ...], asyncio.Future[list[Any]]] = {}

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - as `asyncio.loop.getaddrinfo` has it
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Do what `socket.getaddrinfo` does.

        Raises:
            OSError: the name does not resolve, or too many names are being looked up.
        """
        key = (host, port, family, type, proto, flags)
        found = self._under_way.get(key)
        if found is None:
            if len(self._under_way) >= self._most:
                raise socket.gaierror(
                    socket.EAI_AGAIN,
                    f"{self._most} DNS lookups have not returned; no further lookup is started",
                )
            call = functools.partial(socket.getaddrinfo, host, port, family, type, proto, flags)
            found = self._workers.start(call, lambda: self._under_way.pop(key, None))
            found.add_done_callback(_retrieve)
            self._under_way[key] = found
        return await asyncio.shield(found)


class OutsideLoop(asyncio.SelectorEventLoop):
    """The event loop of the process: names are never looked up in its default executor.

    The default executor has a handful of threads, which the loop's own work needs. All clients in
    the process that resolve names through the loop use these threads instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lookups = Lookups()

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - as the base class has it
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Look a name up in threads that may be left behind."""
        return await self._lookups.getaddrinfo(
            host, port, family=family, type=type, proto=proto, flags=flags
        )


@functools.cache
def outside_loop() -> asyncio.AbstractEventLoop:
    """Return a loop in a daemon thread, for back ends that want one beside the process's own.

    Theirs would look names up in the few threads of its default executor, for all hosts together.
    """
    loop = OutsideLoop()
    threading.Thread(target=loop.run_forever, name="outside-loop", daemon=True).start()
    return loop


class _Workers:
    """Daemon threads that are reused after their calls return."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()

    def start(self, call: Callable[[], T], ended: Callable[[], object]) -> asyncio.Future[T]:
        """Start a call; `ended` is called in the event loop when it has returned, or raised."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        is_left = has_returned = False

        def leave(future: asyncio.Future[T]) -> None:
            nonlocal is_left
            if future.cancelled() and not has_returned:
                is_left = True
                metrics.LEFT_BEHIND.inc()

        def deliver(result: T | None, error: BaseException | None) -> None:
            nonlocal has_returned
            has_returned = True
            if is_left:
                metrics.LEFT_BEHIND.dec()
            elif not done.done():
                if error is None:
                    done.set_result(result)  # type: ignore[arg-type]
                else:
                    done.set_exception(error)
            ended()

        def run() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = call()
            except BaseException as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(deliver, result, error)

        done.add_done_callback(leave)
        self.put(run)
        return done

    def put(self, job: Callable[[], object]) -> None:
        """Have a thread do a job; from any thread."""
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is None:
            worker = _Worker(self._idle, self._lock)
            worker.start()
        worker.jobs.put(job)


class _Worker(threading.Thread):
    def __init__(self, idle: list[_Worker], lock: threading.Lock) -> None:
        super().__init__(name="outside", daemon=True)
        self.jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._idle = idle
        self._lock = lock

    def run(self) -> None:
        while True:
            try:
                job = self.jobs.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self in self._idle:
                        self._idle.remove(self)
                        return
                continue  # a job is on its way
            with contextlib.suppress(Exception):
                job()
            del job
            with self._lock:
                self._idle.append(self)


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieve the error of an abandoned call, so that asyncio does not log it."""
    if not future.cancelled():
        future.exception()
