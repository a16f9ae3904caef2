"""Wakes the loop when the configuration folder changes; the loop then reads the folder.

The watch only saves time: the loop also reads the folder once a period. So a folder that cannot be
watched (it does not exist yet, or the node has no inotify watches left) is no error, and the
watcher retries.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog
from inotify_simple import INotify, flags

log: Final = structlog.get_logger()

_RETRY_S: Final = 2.0
#: A kubelet's swap is a handful of events within a millisecond or two: the rest is waited for.
_SETTLE_S: Final = 0.005
_GONE: Final = flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT | flags.IGNORED
_CHANGED: Final = (
    flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.CLOSE_WRITE
    | flags.ATTRIB
)
_WATCHED: Final = _CHANGED | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR


async def watch_folder(folder: Path, wake: asyncio.Event) -> None:
    """Set `wake` whenever something in `folder` changes, until cancelled."""
    while True:
        try:
            await _watch(folder, wake)
        except OSError as error:
            log.debug("watch_lost", folder=str(folder), error=str(error))
        wake.set()
        await asyncio.sleep(_RETRY_S)


async def _watch(folder: Path, wake: asyncio.Event) -> None:
    """Watch the folder until another one has its path."""
    running = asyncio.get_running_loop()
    has_news = asyncio.Event()
    with await asyncio.to_thread(INotify, nonblocking=True) as inotify:
        await asyncio.to_thread(inotify.add_watch, folder, _WATCHED)
        wake.set()  # the watch missed changes that were made before it began
        running.add_reader(inotify.fileno(), has_news.set)
        try:
            while True:
                await has_news.wait()
                events = inotify.read(timeout=0)
                await asyncio.sleep(_SETTLE_S)
                events += inotify.read(timeout=0)
                has_news.clear()
                wake.set()
                if any(event.mask & _GONE for event in events):
                    return
        finally:
            running.remove_reader(inotify.fileno())
