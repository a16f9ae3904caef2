"""The number of streams that read a large object.

Distant stores send 50 to 100 MB/s over a connection, so eight are far better than one. A store in
the same node or rack saturates the machine with two, and more only take processor time from the
model server. Only the rate distinguishes the two cases, so two streams start at once, and another
joins while the running ones are slow.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

_AT_ONCE: Final = 2
_STEP_S: Final = 0.06
_LONGEST_STEP_S: Final = 1.0
#: A stream of this rate needs no company.
_ENOUGH_BYTES_PER_S: Final = 100_000_000


class StreamRamp:
    """Starts the streams of one fetch one after the other, as long as they are needed."""

    def __init__(self) -> None:
        self._moved = 0
        self._running = 0
        self._ended = asyncio.Event()

    def count(self, moved: int) -> None:
        """Note bytes that the streams have moved."""
        self._moved += moved

    def end(self) -> None:
        """Start no further stream: there is nothing left to read."""
        self._ended.set()

    async def join(self, rank: int) -> bool:
        """Wait for a stream's turn; False if there is nothing left to read.

        The first look is after a time that grows with the rank, and each further one watches for
        twice as long, so that one slow moment does not bring in everybody.
        """
        step_s = _STEP_S
        if rank >= _AT_ONCE and await self._ends_within(_STEP_S * (rank - _AT_ONCE)):
            return False
        while rank >= _AT_ONCE:
            moved, began = self._moved, time.monotonic()
            if await self._ends_within(step_s):
                return False
            rate = (self._moved - moved) / (time.monotonic() - began)
            if rate < _ENOUGH_BYTES_PER_S * self._running:
                break
            step_s = min(2 * step_s, _LONGEST_STEP_S)
        self._running += 1
        return True

    async def _ends_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._ended.wait()
        except TimeoutError:
            return False
