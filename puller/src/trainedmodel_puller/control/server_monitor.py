"""Polls the model server, and maintains the server state that plans use.

A refused connection means that the process is down: its state is unknown until it answers again,
and all its models are gone. A missing answer means nothing, because some servers are silent while
they load. The last state then stands for reports, and no load or unload is planned on it (P2).

The liveness check runs every period, over one kept connection. A broken connection may mean a new
process, so the index is read at once. Otherwise the index is read so rarely that it takes a small
share of the server's time: MLServer reads a file for each model to answer it (0.24 s with 200).
After a time of doubt or downtime, the index is read first.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import structlog

from trainedmodel_puller import metrics
from trainedmodel_puller.core.state import ServerState, ServerView
from trainedmodel_puller.core.watching import RECENT, pause_s
from trainedmodel_puller.drivers.base import ModelServer, Observation, ServerGone, ServerInDoubt
from trainedmodel_puller.live_state import LiveState

T = TypeVar("T")
log: Final = structlog.get_logger()

#: Seconds between two checks of a server that is down: all models wait for its return.
_DOWN_PERIOD_S: Final = 0.2
#: Seconds between two reads of the index while the server loads or unloads something by itself,
#: because plans wait for the end. The puller's own actions end with the server's answer; reading an
#: index of hundreds meanwhile only slows the server down.
_MOVING_PERIOD_S: Final = 1.0
_MOVING: Final = {ServerState.LOADING, ServerState.UNLOADING}
#: Consecutive missing answers after which the server is reported as not reachable.
_DOUBTS: Final = 3
#: The same, in seconds, while the puller loads a model: some servers are silent then (60 s seen).
_LOADING_PATIENCE_S: Final = 60.0


class ServerMonitor:
    """Keeps `LiveState.server` up to date.

    Attributes:
        is_reachable: Reachability for reports; it changes later than the state that plans use.
        since: Time of the last change of `is_reachable`, seconds since the epoch.
    """

    def __init__(self, server: ModelServer, state: LiveState, period_s: float) -> None:
        self._server = server
        self._state = state
        self._period_s = period_s
        self._doubts = 0
        self._silent_since = 0.0
        self._was_reached = False
        self._looks_s: deque[float] = deque(maxlen=RECENT)
        self.is_reachable = False
        self.since = time.time()
        self.message = "not checked yet"

    async def run(self) -> None:
        """Run until cancelled."""
        looked_at = float("-inf")
        was_same = False
        while True:
            is_index_due = (
                not self._state.server.is_known or time.monotonic() >= looked_at + self._rest_s()
            )
            if not is_index_due:
                is_same = await self.ping()
                # a server that never keeps connections says nothing by another one
                is_index_due = was_same and not is_same
                if is_index_due and self._was_reached:
                    metrics.SERVER_RESTARTS.inc()
                was_same = is_same
            if is_index_due:
                self._looks_s.append(await self.look())
                looked_at = time.monotonic()
            wait_s = self._period_s
            if not self._state.server.is_known:
                wait_s = _DOWN_PERIOD_S if self._doubts == 0 else min(self._period_s, 1.0)
            await asyncio.sleep(wait_s)

    def _rest_s(self) -> float:
        if self._is_moving():
            return _MOVING_PERIOD_S
        models = max(len(self._state.disk), len(self._state.server_models))
        is_acting = bool(self._state.server_actions)
        return pause_s(tuple(self._looks_s), models, is_acting=is_acting)

    def _is_moving(self) -> bool:
        """Return whether the server loads or unloads a model by itself."""
        moving = {name for name, is_ in self._state.server_models.items() if is_ in _MOVING}
        return not moving <= self._state.server_actions.keys()

    async def ping(self) -> bool:
        """Check that the server is alive; return whether it is the same process as before."""
        try:
            is_same = await self._asked(self._server.ping)
        except ServerGone as error:
            self._on_refused(error)
            return False
        except ServerInDoubt as error:
            self._on_timeout(error, time.monotonic())
            return True
        self._doubts = 0
        self._judge(True, "")
        self._conclude(ServerView(True, self._state.server_models, self._state.server_revisions))
        return is_same

    async def look(self) -> float:
        """Read the index; return the seconds that it took."""
        began = time.monotonic()
        names = [name for name, held in self._state.disk.items() if held.loaded or held.published]
        try:
            observation = await self._asked(lambda: self._server.observe(names))
        except ServerGone as error:
            self._on_refused(error)
        except ServerInDoubt as error:
            self._on_timeout(error, began)
        else:
            self._doubts = 0
            self._take(observation, began)
            self._judge(True, "")
            self._conclude(
                ServerView(True, self._state.server_models, self._state.server_revisions)
            )
        return time.monotonic() - began

    def _take(self, observation: Observation, began: float) -> None:
        """Use an observation, except for names that the puller's own actions changed since."""
        state = self._state
        models, revisions = dict(observation.states), dict(observation.revisions)
        for name, marked in list(state.server_marks.items()):
            if marked < began:
                del state.server_marks[name]
                continue
            _put_back(name, models, state.server_models)
            _put_back(name, revisions, state.server_revisions)
        state.server_models, state.server_revisions = models, revisions

    def _on_refused(self, error: ServerGone) -> None:
        self._doubts = 0
        if self._was_reached:
            metrics.SERVER_RESTARTS.inc()
            self._was_reached = False
        self._state.server_models, self._state.server_revisions = {}, {}
        self._judge(False, str(error))
        self._conclude(ServerView(False, {}, {}, str(error)))

    def _on_timeout(self, error: ServerInDoubt, began: float) -> None:
        self._doubts += 1
        if self._doubts == 1:
            self._silent_since = began
        is_loading = bool(self._state.server_actions)
        if self._doubts >= _DOUBTS and (not is_loading or began > self._patience_ends()):
            self._judge(False, str(error))
        self._conclude(
            ServerView(False, self._state.server_models, self._state.server_revisions, str(error))
        )

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            return await ask()
        except (ServerGone, ServerInDoubt):
            raise
        except Exception as error:  # a driver's own fault is one more way of not knowing
            log.exception("observation_crashed", server=self._server.kind)
            raise ServerInDoubt(f"{type(error).__name__}: {error}") from error

    def _patience_ends(self) -> float:
        return self._silent_since + _LOADING_PATIENCE_S

    def _judge(self, is_reachable: bool, message: str) -> None:
        self.message = message
        self._was_reached |= is_reachable
        if is_reachable == self.is_reachable:
            return
        self.is_reachable = is_reachable
        self.since = time.time()
        log.info(
            "server_up" if is_reachable else "server_down",
            url=self._server.url,
            error=message or None,
        )

    def _conclude(self, view: ServerView) -> None:
        if view != self._state.server:
            self._state.wake.set()
        self._state.server = view


def _put_back(name: str, seen: dict[str, T], known: Mapping[str, T]) -> None:
    seen.pop(name, None)
    if name in known:
        seen[name] = known[name]
