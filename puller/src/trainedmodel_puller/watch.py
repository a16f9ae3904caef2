"""Wakes the loop when the configuration folder changes. The event carries nothing: the loop reads.

Without this module everything still works, a period later: the loop looks by itself as well.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog
from watchfiles import awatch

log: Final = structlog.get_logger()

_RETRY_S: Final = 2.0


async def watch_folder(folder: Path, bell: asyncio.Event, stop: asyncio.Event) -> None:
    """Set `bell` whenever something below `folder` changes, until `stop` is set."""
    while not stop.is_set():
        try:
            # a kubelet's swap is a handful of events within a millisecond: wait 10 ms for the rest
            async for _ in awatch(folder, stop_event=stop, debounce=200, step=10, recursive=False):
                bell.set()
        except (OSError, RuntimeError) as error:
            log.debug("watch_lost", folder=str(folder), why=str(error))
        bell.set()
        if not stop.is_set():
            await asyncio.sleep(_RETRY_S)
