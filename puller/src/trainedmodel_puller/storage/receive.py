"""Receiving bytes of one object, as many as its listing promised, before the store falls silent.

The listing is a promise, and a store may break it: every stream is counted, and more bytes or fewer
are a fault, as is a stream without a byte for longer than it may be.
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
from trainedmodel_puller.storage.limiter import Slot

#: Who brings less than this in so many seconds, or nothing at all, lends the slot to others.
_WINDOW_S: Final = 2.0
_TRICKLE_BYTES: Final = 256 * 1024

#: Takes a chunk and its size in bytes.
Sink = Callable[[Buffer, int], Awaitable[None]]


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
    since = running.time()
    async with aclosing(storage.read(uri, item, start, end)) as chunks:
        while True:
            silence = running.call_later(_WINDOW_S, slot.lend)
            try:
                async with asyncio.timeout(stall_timeout_s):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                raise _stalled(uri, item, start + received, stall_timeout_s) from None
            finally:
                silence.cancel()
            if chunk is None:
                break
            size = memoryview(chunk).nbytes
            received += size
            if running.time() - since >= _WINDOW_S:
                (slot.take_back if received - before >= _TRICKLE_BYTES else slot.lend)()
                since, before = running.time(), received
            if wanted is not None and received > wanted:
                raise _mismatch(uri, item, "more", start + received)
            if size:
                await sink(chunk, size)
    if wanted is not None and received < wanted:
        raise _mismatch(uri, item, "fewer", start + received)


def _stalled(uri: StorageUri, item: SourceObject, at: int, stall_timeout_s: float) -> SourceFault:
    return SourceFault(
        Reason.SOURCE_STALLED,
        f"{uri}: no byte of {item.path!a:.200} for {stall_timeout_s:g} s,"
        f" {at} of {item.size} received",
    )


def _mismatch(uri: StorageUri, item: SourceObject, word: str, at: int) -> SourceFault:
    return SourceFault(
        Reason.SIZE_MISMATCH,
        f"{uri}: the store sent {word} bytes of {item.path!a:.200} than it listed:"
        f" at {at}, listed with {item.size}",
    )
