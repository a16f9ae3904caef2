"""One limit on connections, shared fairly by all models.

A plain semaphore serves in the order of requests: a model with 5,000 objects that comes first keeps
all others waiting until its last object has started. Here a free slot goes to the waiting model
that holds the fewest, so a new model gets its first slot as soon as any transfer ends (P12).

A connection to a store that sends little or nothing lends its slot. Otherwise a few dead stores
would hold all slots until they count as stalled. A connection that is fast again takes a slot back
without waiting. So more connections than the limit may be open, but only that many transfer data.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque


class Slot:
    """One slot, held while its context lasts; its holder may lend it while it is idle."""

    __slots__ = ("_is_lent", "_key", "_limiter")

    def __init__(self, limiter: FairLimiter, key: object) -> None:
        self._limiter = limiter
        self._key = key
        self._is_lent = True

    async def __aenter__(self) -> Slot:
        await self._limiter.acquire(self._key)
        self._is_lent = False
        return self

    async def __aexit__(self, *_: object) -> None:
        self.lend()

    def lend(self) -> None:
        """Let others have it."""
        if not self._is_lent:
            self._is_lent = True
            self._limiter.give(self._key)

    def take_back(self) -> None:
        """Use it again."""
        if self._is_lent:
            self._is_lent = False
            self._limiter.take_back(self._key)


class FairLimiter:
    """At most `limit` slots; the next free one goes to the holder of the fewest."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._held: Counter[object] = Counter()
        # The order of the keys is the order of asking: it decides between equals.
        self._waiting: dict[object, deque[asyncio.Future[None]]] = {}

    def slot(self, key: object) -> Slot:
        """Return a context that holds one slot on behalf of `key`."""
        return Slot(self, key)

    def take_back(self, key: object) -> None:
        """Take a slot without waiting, even if there is none."""
        self._take(key)

    def give(self, key: object) -> None:
        """Give a slot to the next waiting holder."""
        self._release(key)

    async def acquire(self, key: object) -> None:
        """Take a slot, or wait for one."""
        if self._free > 0 and not self._waiting:
            self._take(key)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(key, deque())
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(key)  # given in the same moment: hand it on
            elif turn in queue:
                queue.remove(turn)
                if not queue and self._waiting.get(key) is queue:
                    del self._waiting[key]
            raise

    def _take(self, key: object) -> None:
        self._free -= 1
        self._held[key] += 1

    def _release(self, key: object) -> None:
        self._free += 1
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        while self._free > 0 and self._waiting:
            poorest = min(self._waiting, key=lambda waiting: self._held[waiting])
            # Counter leaves no zero behind on reading; a key that waits again goes to the back.
            queue = self._waiting.pop(poorest)
            turn = queue.popleft()
            if queue:
                self._waiting[poorest] = queue
            if not turn.done():
                self._take(poorest)
                turn.set_result(None)
