"""Lists the sources of failed models, so that a repaired source is fetched before its next try.

`core.looks` decides when to list which source. A few listings run at once, each with a time limit,
so their cost to a store is bounded, however many models have failed.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog
from trainedmodel_contract.uri import parse_uri

from trainedmodel_puller import metrics
from trainedmodel_puller.core.looks import Look, due, has_changed
from trainedmodel_puller.core.state import Failure, FailureKey
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.storage.base import fingerprint_of
from trainedmodel_puller.storage.download import Downloader

log: Final = structlog.get_logger()

#: Seconds between two decisions, so at most `_MOST` listings start in this time.
_PERIOD_S: Final = 1.0
#: Concurrent listings.
_MOST: Final = 8
#: Time limit of a listing, in seconds.
_LIMIT_S: Final = 10.0


class SourceMonitor:
    """Lists the sources of failed models from time to time, and ends the wait if one changed."""

    def __init__(self, state: LiveState, downloader: Downloader) -> None:
        self._state = state
        self._downloader = downloader
        self._looks: dict[FailureKey, Look] = {}
        self._under_way: set[FailureKey] = set()

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(_PERIOD_S)
                for key in self._due():
                    self._under_way.add(key)
                    group.create_task(self._look(key, self._state.failures[key]))

    def _due(self) -> list[FailureKey]:
        state = self._state
        self._looks = {key: look for key, look in self._looks.items() if key in state.failures}
        if not state.failures:
            return []
        busy = {
            *(name for name, _ in self._under_way),
            *state.transfers,
            *state.server_actions,
            *state.removals,
        }
        most = _MOST - len(self._under_way)
        return due(state.failures, self._looks, busy, time.monotonic(), most)

    async def _look(self, key: FailureKey, failure: Failure) -> None:
        began = time.monotonic()
        try:
            found = await self._fingerprint(failure)
        finally:
            self._under_way.discard(key)
            now = time.monotonic()
            self._looks[key] = Look(now, now - began)
        if not has_changed(failure, found):
            outcome = "unchanged" if found is not None else "failed"
        elif self._state.end_wait(key, failure):
            outcome = "changed"
            log.info("source_changed", model=key[0], revision=key[1], failed=str(failure.reason))
        else:
            outcome = "late"
        metrics.SOURCE_LOOKS.labels(outcome=outcome).inc()

    async def _fingerprint(self, failure: Failure) -> str | None:
        if failure.entry is None:
            return None
        try:
            uri = parse_uri(failure.entry.storage_uri)
            async with asyncio.timeout(_LIMIT_S):
                listing = await self._downloader.list(uri, credentials=failure.entry.credentials)
            return await fingerprint_of(listing)
        except (SourceFault, TimeoutError, ValueError):
            return None
        except Exception:
            log.exception("source_check_failed", model=failure.entry.name)
            return None
