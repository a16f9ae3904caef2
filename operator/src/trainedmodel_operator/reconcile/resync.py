"""The resync: the survey that needs no event.

Watches lose events. A deletion in a gap of the watch is never reported, manual ConfigMap edits
cause no event here, and at start-up there have been none. So every 60 s, with jitter, a survey
finds every service that a TrainedModel or a shard names (a shard shows a service without models).
Each service is reconciled unless it is *settled*: its last pass did nothing, and nothing that the
pass read has changed since. Every `WHOLE_ROUNDS` resyncs each service is reconciled all the same,
in turn. So a change that fingerprints miss lasts no longer than that.

A caller that knows of a loss (a watch that listed again, or ended) asks for an early resync. It
comes within `SOON_S`, once for all that ask together. A resync that failed is retried within
`LONGEST_RETRY_S`. Its success also shows that the API server is back, and ends the back-off of
services that failed because it was away.

A namespace that cannot be read is left out (`namespaces`). A resync succeeds if one could be read.

The first resync is the start of the operator and checks more closely (`initial_sync`), so that few
services need a pass. Until it has succeeded, the API or the CRDs are missing, and the watches do
not start.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from zlib import crc32

import structlog

from trainedmodel_operator.core.pacing.backoff import pause_s
from trainedmodel_operator.core.pacing.windows import Trigger
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.errors import ApiError, NothingReadable
from trainedmodel_operator.reconcile.initial_sync import InitialSync
from trainedmodel_operator.reconcile.inventory import Inventory

FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 5.0
SOON_S: Final = 2.0
#: With 60 s between two resyncs: half an hour.
WHOLE_ROUNDS: Final = 30

log = structlog.get_logger()


class Resync:
    """Enqueues every service that differs from its last pass."""

    def __init__(
        self,
        inventory: Inventory,
        enqueue: Callable[[ServiceKey, Trigger], None],
        *,
        period_s: float,
        is_settled: Callable[[ServiceKey, str], bool] = lambda key, found: False,
        initial_sync: InitialSync | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._inventory: Inventory | InitialSync = (
            inventory if initial_sync is None else initial_sync
        )
        self._later = inventory
        self._enqueue = enqueue
        self._is_settled = is_settled
        self._rounds = 0
        self._period_s = period_s
        self._jitter = jitter
        self._asked = asyncio.Event()
        self._has_succeeded = asyncio.Event()
        #: When a resync last succeeded, by the loop's clock.
        self.ended_at: float | None = None
        #: When all namespaces were last refused: a new process would be refused as well.
        self.answered_at: float | None = None
        self.has_begun = asyncio.Event()

    def ask(self) -> None:
        """Ask for an early resync; costs nothing, may be called at any time."""
        self._asked.set()

    async def fresh(self) -> None:
        """Ask for an early resync, and wait until one has succeeded."""
        self._has_succeeded.clear()
        self.ask()
        await self._has_succeeded.wait()

    async def run(self) -> None:
        """Enqueue, wait, repeat, until cancelled; a failed list is retried soon."""
        failures = 0
        while True:
            self._asked.clear()
            try:
                services = await self._find_due()
            except ApiError as error:
                if isinstance(error, NothingReadable):
                    self.answered_at = asyncio.get_running_loop().time()
                log.warning("resync_failed", error_type=error.cause, error=str(error))
                longest_s = min(LONGEST_RETRY_S, self._period_s)
                await asyncio.sleep(
                    pause_s(failures, self._jitter(), first_s=FIRST_RETRY_S, longest_s=longest_s)
                )
                failures += 1
                continue
            failures = 0
            for key in services:
                self._enqueue(key, Trigger.RESYNC)
            self.ended_at = asyncio.get_running_loop().time()
            self.has_begun.set()
            self._has_succeeded.set()
            with suppress(TimeoutError):
                pause = min(self._period_s, self._later.namespaces.look_again_in_s)
                async with asyncio.timeout(self._jittered(pause)):
                    await self._asked.wait()
                    await asyncio.sleep(self._jittered(SOON_S))
                    log.info("early_resync_started")

    def _jittered(self, pause_s: float) -> float:
        return pause_s * (0.8 + 0.4 * self._jitter())

    async def _find_due(self) -> list[ServiceKey]:
        """Return the services that are to be looked at, in order."""
        surveyed = await self._inventory.look()
        is_first, self._inventory = self._inventory is not self._later, self._later
        self._rounds += 1
        return [
            key
            for key, found in surveyed.items()
            if not self._is_settled(key, found)
            or (not is_first and (self._rounds + crc32(str(key).encode())) % WHOLE_ROUNDS == 0)
        ]
