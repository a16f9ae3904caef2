"""Receives the bytes of one object, with checks of its listed size and of silence.

A store may send more or fewer bytes than it listed, so every stream is counted, and a difference is
a fault. A stream without a byte for longer than the time limit is a fault too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri
from typing_extensions import Buffer

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.base import UNKNOWN_SIZE, SourceObject, Storage
from trainedmodel_puller.storage.transfer.fair_limiter import Slot

#: Who is slower than this for so many seconds, or brings nothing at all, lends the slot to others.
_WINDOW_S: Final = 2.0
_TRICKLE_RATE: Final = 128 * 1024  # bytes/s

#: Takes a chunk and its size in bytes.
Sink = Callable[[Buffer, int], Awaitable[None]]


class _Silence:
    """Measures the silence of a store: lends the slot first, and finally ends the stream.

    There is one timer for a whole stream, which checks from time to time: a timer for each chunk
    costs more than to receive a small object.
    """

    def __init__(self, slot: Slot, limit_s: float, scope: asyncio.Timeout) -> None:
        self._slot = slot
        self._limit_s = limit_s
        self._scope = scope
        self._running = asyncio.get_running_loop()
        self.since: float | None = self._running.time()
        self._timer = self._running.call_later(min(_WINDOW_S, limit_s), self._look)

    def _look(self) -> None:
        now = self._running.time()
        since = now if self.since is None else self.since
        if now >= since + self._limit_s:
            self._scope.reschedule(now)
            return
        if now >= since + _WINDOW_S:
            self._slot.lend()
        next_window = (now if now >= since + _WINDOW_S else since) + _WINDOW_S
        again = min(next_window, since + self._limit_s)
        self._timer = self._running.call_at(again, self._look)

    def end(self) -> None:
        self._timer.cancel()


async def receive(  # noqa: PLR0917 - a request has so many parts
    storage: Storage,
    uri: StorageUri,
    item: SourceObject,
    start: int,
    end: int,
    sink: Sink,
    stall_timeout_s: float,
    slot: Slot,
) -> None:
    """Read bytes [start, end) of a listed object into a sink; lend the slot while little comes.

    Raises:
        SourceFault: SourceStalled or SizeMismatch, or what the store raises.
    """
    running = asyncio.get_running_loop()
    wanted = None if end == UNKNOWN_SIZE else end - start
    received = before = 0
    try:
        async with (
            aclosing(storage.read(uri, item, start, end)) as chunks,
            asyncio.timeout(None) as scope,
        ):
            silence = _Silence(slot, stall_timeout_s, scope)
            window_at = running.time()
            try:
                async for chunk in chunks:
                    silence.since = None  # what the sink takes its time for is not the store's
                    size = memoryview(chunk).nbytes
                    received += size
                    now = running.time()
                    if now >= window_at + _WINDOW_S:
                        rate = (received - before) / (now - window_at)
                        (slot.take_back if rate >= _TRICKLE_RATE else slot.lend)()
                        window_at, before = now, received
                    if wanted is not None and received > wanted:
                        raise _mismatch(uri, item, "more")
                    if size:
                        await sink(chunk, size)
                    silence.since = running.time()
            finally:
                silence.end()
    except TimeoutError:
        raise stalled(uri, item, stall_timeout_s) from None
    if wanted is not None and received < wanted:
        raise _mismatch(uri, item, "fewer")


def stalled(uri: StorageUri, item: SourceObject, stall_timeout_s: float) -> SourceFault:
    """Return the fault of a store that fell silent within an object."""
    return SourceFault(
        Reason.SOURCE_STALLED,
        f"{uri}: the store has sent nothing of {item.path!a:.200} for {stall_timeout_s:g} s",
    )


def _mismatch(uri: StorageUri, item: SourceObject, word: str) -> SourceFault:
    return SourceFault(
        Reason.SIZE_MISMATCH,
        f"{uri}: the store sent {word} bytes of {item.path!a:.200} than the {item.size} it listed",
    )
