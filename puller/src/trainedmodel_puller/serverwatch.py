"""Looks at the model server, period by period, and says what may be planned on.

Refused connections mean that the process is down: nothing is known from then on until it answers
again, and all that it had is gone. No answer in time means nothing (some servers are silent while
they load): the last truth stands for reports, and no load or unload is planned on it (P2).

Whether it is alive is asked every period. Its index is asked for as seldom as makes it a small
share of the server's time: MLServer reads a file for each model to answer it (0.24 s with 200). A
server that was down or in doubt is asked for its index first of all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

import structlog

from trainedmodel_puller.core.state import ServerState, ServerView
from trainedmodel_puller.drivers.base import ModelServer, ServerGone, ServerInDoubt
from trainedmodel_puller.state import LiveState

log: Final = structlog.get_logger()

#: Share of the time that may be spent looking at the server: a look of 20 ms, one a second.
_WATCH_SHARE: Final = 0.02
#: A server that is down is asked this often, in seconds: its return is what everybody waits for.
_DOWN_PERIOD_S: Final = 0.2
#: Doubts in a row after which the server is reported as not answering.
_DOUBTS: Final = 3
#: The same while a load of ours is under way: some servers are silent while they load (60 s seen).
_LOADING_PATIENCE_S: Final = 60.0


class ServerWatch:
    """Keeps `LiveState.server` true.

    Attributes:
        is_reachable: What reports say; slower to turn than what plans are made on.
        since: Seconds since the epoch at which `is_reachable` last turned.
    """

    def __init__(self, server: ModelServer, state: LiveState, period_s: float) -> None:
        self._server = server
        self._state = state
        self._period_s = period_s
        self._doubts = 0
        self._silent_since = 0.0
        self.is_reachable = False
        self.since = time.time()
        self.message = "not asked yet"

    async def run(self) -> None:
        """Look for ever."""
        next_index = 0.0
        while True:
            is_known = self._state.server.is_known
            is_index_due = not is_known or time.monotonic() >= next_index
            took_s = await self.look(with_index=is_index_due)
            if is_index_due:
                next_index = time.monotonic() + took_s / _WATCH_SHARE
            pause_s = self._period_s
            if not self._state.server.is_known:
                pause_s = _DOWN_PERIOD_S if self._doubts == 0 else min(self._period_s, 1.0)
            await asyncio.sleep(pause_s)

    async def look(self, *, with_index: bool = True) -> float:
        """Look once, at the index or only for a sign of life; return the seconds it took."""
        began = time.monotonic()
        try:
            models = await self._observe(with_index=with_index)
        except ServerGone as error:
            self._doubts = 0
            self._state.server_models = {}
            self._judge(False, str(error))
            self._conclude(ServerView(False, {}, str(error)))
        except ServerInDoubt as error:
            self._doubts += 1
            if self._doubts == 1:
                self._silent_since = began
            is_loading = bool(self._state.server_actions)
            if self._doubts >= _DOUBTS and (not is_loading or began > self._patience_ends()):
                self._judge(False, str(error))
            self._conclude(ServerView(False, self._state.server_models, str(error)))
        else:
            self._doubts = 0
            merged = dict(models)
            if not with_index:
                began = float("-inf")
            for name, marked in list(self._state.server_marks.items()):
                if marked < began:
                    del self._state.server_marks[name]
                elif name in self._state.server_models:
                    merged[name] = self._state.server_models[name]
                else:
                    merged.pop(name, None)
            self._state.server_models = merged
            self._judge(True, "")
            self._conclude(ServerView(True, merged))
        return time.monotonic() - began

    async def _observe(self, *, with_index: bool) -> Mapping[str, ServerState]:
        try:
            if not with_index:
                await self._server.ping()
                return self._state.server_models
            disk = self._state.disk
            return await self._server.observe(
                [name for name, held in disk.items() if held.loaded or held.published]
            )
        except (ServerGone, ServerInDoubt):
            raise
        except Exception as error:  # a driver's own fault is one more way of not knowing
            log.exception("observe_crashed", server=self._server.kind)
            raise ServerInDoubt(f"{type(error).__name__}: {error}") from error

    def _patience_ends(self) -> float:
        return self._silent_since + _LOADING_PATIENCE_S

    def _judge(self, is_reachable: bool, message: str) -> None:
        self.message = message
        if is_reachable == self.is_reachable:
            return
        self.is_reachable = is_reachable
        self.since = time.time()
        log.info("server_up" if is_reachable else "server_down", url=self._server.url, why=message)

    def _conclude(self, view: ServerView) -> None:
        if view != self._state.server:
            self._state.bell.set()
        self._state.server = view
