"""The puller's own endpoints: `/healthz`, `/readyz`, `/status`, `/metrics`.

`/healthz` is bad when the loop has not passed for a minute: a restart would help. `/readyz` turns
good when each model of the first configuration was loaded or has failed once, and stays good: one
broken model must not take a pod out of its service.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from trainedmodel_contract.reasons import State

from trainedmodel_puller import metrics
from trainedmodel_puller.drivers.base import ModelServer
from trainedmodel_puller.loop import Loop
from trainedmodel_puller.reporters import server_part
from trainedmodel_puller.serverwatch import ServerWatch
from trainedmodel_puller.state import LiveState

#: A loop that has not passed for this long is stuck, in seconds.
_STUCK_S: Final = 60.0


class Endpoints:
    """Answers from what the loop last knew; touches nothing."""

    def __init__(
        self, state: LiveState, loop: Loop, watch: ServerWatch, server: ModelServer
    ) -> None:
        self._state = state
        self._loop = loop
        self._watch = watch
        self._server = server

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        application = web.Application()
        application.router.add_get("/healthz", self.healthz)
        application.router.add_get("/readyz", self.readyz)
        application.router.add_get("/status", self.status)
        application.router.add_get("/metrics", self.metrics)
        return application

    async def healthz(self, _: web.Request) -> web.Response:
        """Say whether the loop runs."""
        silent_s = time.monotonic() - self._loop.last_pass
        if silent_s > _STUCK_S:
            return web.Response(status=503, text=f"no pass for {silent_s:.0f} s\n")
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        """Say whether each model of the first configuration was loaded or has failed once."""
        if self._loop.is_settled:
            return web.Response(text="ok\n")
        counts = Counter(model.state for model in self._loop.models.values())
        why = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        return web.Response(status=503, text=f"not settled: {why or 'no configuration yet'}\n")

    async def status(self, _: web.Request) -> web.Response:
        """Say everything, as JSON."""
        return web.json_response(self.document())

    def document(self) -> dict[str, Any]:
        """Return what `/status` shows."""
        desired = self._state.desired
        return {
            "config": {
                "isKnown": desired.is_known,
                "digest": desired.config_digest,
                "problem": desired.problem,
            },
            "server": server_part(self._server, self._watch).to_dict(),
            "isSettled": self._loop.is_settled,
            "models": {
                model_id: model.to_dict() for model_id, model in sorted(self._loop.models.items())
            },
        }

    async def metrics(self, _: web.Request) -> web.Response:
        """Return Prometheus metrics."""
        counts = Counter(model.state for model in self._loop.models.values())
        for state in State:
            metrics.MODELS.labels(state=str(state)).set(counts.get(str(state), 0))
        metrics.SERVER_REACHABLE.set(self._watch.is_reachable)
        body = generate_latest(metrics.REGISTRY)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
