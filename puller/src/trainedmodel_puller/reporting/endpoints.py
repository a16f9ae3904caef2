"""The puller's own endpoints: `/healthz`, `/readyz`, `/status`, `/metrics`.

`/healthz` fails if the loop has made no pass for a minute: a restart would help. `/readyz` succeeds
from the moment that `--ready-when` names. With `settled` and `all` it keeps succeeding: one broken
model must not take a pod out of its service.

Documents of thousands of models are made in threads, from copies, because the live state changes
while a thread reads it. The endpoints have their own threads, so nothing that the puller waits for
can delay an answer. Documents are written model by model, because one call of a JSON writer holds
the interpreter lock until it ends.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from trainedmodel_contract.modelreport import ReportedModel

from trainedmodel_puller import metrics
from trainedmodel_puller.control.server_monitor import ServerMonitor
from trainedmodel_puller.core.state import ObservedState, Plan
from trainedmodel_puller.core.status import status_head, status_models
from trainedmodel_puller.drivers.base import ModelServer
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.reporting.report_documents import server_part
from trainedmodel_puller.reporting.startup_endpoints import application_of

T = TypeVar("T")

#: One for `/status` and one for `/metrics`.
_THREADS: Final = 2
#: A loop that has not passed for this long is stuck, in seconds.
_STUCK_S: Final = 60.0


class LoopView(Protocol):
    """The part of the loop that the endpoints show."""

    models: dict[str, ReportedModel]
    plan: Plan
    is_settled: bool
    is_all_loaded: bool
    last_pass: float


class Endpoints:
    """Answers from the live state and the last pass; changes nothing.

    Args:
        state: The live state.
        loop: The result of the last pass.
        watch: The reachability of the server.
        server: The driver.
        ready_when: Condition for `/readyz`: `settled` (each model of the first configuration was
            loaded or has failed once), `all` (each of them was loaded once) or `server` (the server
            answers).
    """

    def __init__(
        self,
        state: LiveState,
        loop: LoopView,
        watch: ServerMonitor,
        server: ModelServer,
        ready_when: str = "settled",
    ) -> None:
        self._state = state
        self._loop = loop
        self._watch = watch
        self._server = server
        self._is_ready: Callable[[], bool] = {
            "settled": lambda: loop.is_settled,
            "all": lambda: loop.is_all_loaded,
            "server": lambda: watch.is_reachable,
        }[ready_when]
        self._ready_when = ready_when
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="endpoints")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False)

    async def _in_thread(self, make: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, make)

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        return application_of(lambda: self)

    async def healthz(self, _: web.Request) -> web.Response:
        """Answer whether the loop runs."""
        silent_s = time.monotonic() - self._loop.last_pass
        if silent_s > _STUCK_S:
            return web.Response(status=503, text=f"no pass for {silent_s:.0f} s\n")
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        """Answer whether the condition of `ready_when` holds, and if not, what is missing."""
        if self._is_ready():
            return web.Response(text="ok\n")
        if self._ready_when == "server":
            why = f"the model server does not answer: {self._watch.message}"
        else:
            counts = Counter(str(model.state) for model in self._loop.models.values())
            words = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
            why = f"not {self._ready_when}: {words or 'no configuration yet'}"
        return web.Response(status=503, text=f"{why}\n")

    async def status(self, request: web.Request) -> web.Response:
        """Answer with the status document as JSON, or with `?model=NAME` with that of one model."""
        only = request.query.get("model")
        desired, observed, loop = self._state.desired, self._copied(), self._loop
        models, plan, now = loop.models, loop.plan, time.monotonic()
        head = {
            "version": metrics.VERSION,
            "readyWhen": self._ready_when,
            "isReady": self._is_ready(),
            "isSettled": loop.is_settled,
        }
        server = server_part(self._server, self._watch).to_dict()

        def make() -> tuple[bytes, bool]:
            told = status_head(desired, observed, plan, models, now)
            told["server"] |= server
            each = status_models(desired, observed, plan, models, now, only=only)
            lines = [*_lines(each)]
            return _written(head | told, lines), bool(lines)

        body, is_found = await self._in_thread(make)
        status = 404 if only is not None and not is_found else 200
        return web.Response(body=body, status=status, content_type="application/json")

    async def metrics(self, _: web.Request) -> web.Response:
        """Return Prometheus metrics."""
        silent_s = time.monotonic() - self._loop.last_pass
        snapshot = metrics.MetricsSnapshot(
            models=self._loop.models,
            observed=self._copied(),
            plan=self._loop.plan,
            is_reachable=self._watch.is_reachable,
            last_pass=time.time() - silent_s,
        )

        def make() -> bytes:
            metrics.observe(snapshot)
            return metrics.render()

        body = await self._in_thread(make)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _copied(self) -> ObservedState:
        observed = self._state.observed()
        return replace(
            observed,
            disk=dict(observed.disk),
            server=replace(observed.server, models=dict(observed.server.models)),
            transfers=dict(observed.transfers),
            server_actions=dict(observed.server_actions),
            removals=frozenset(observed.removals),
            failures=dict(observed.failures),
        )


def _lines(models: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    for model_id, model in models:
        yield f"\n {json.dumps(model_id)}: {json.dumps(model)}"


def _written(head: dict[str, Any], models: list[str]) -> bytes:
    """Write a document a line a key, and `models` a line a model."""
    keys = [f"\n{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    keys.append('\n"models": {' + ",".join(models) + "\n}")
    return ("{" + ",".join(keys) + "\n}\n").encode()
