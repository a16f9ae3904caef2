"""The probes of the kubelet: `/healthz` and `/readyz`, on every replica, from its start to its end.

`core.health` decides the answers. The event loop of the operator serves them, so a blocked loop
does not answer, which is correct too. The body has the reason, for people.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from trainedmodel_operator.core.health import Verdict, Vitals, judge_life, judge_readiness
from trainedmodel_operator.observability.http_server import Handler, http_served

_GOOD, _BAD = 200, 503


@asynccontextmanager
async def probes_served(port: int, look: Callable[[], Vitals]) -> AsyncIterator[None]:
    """Answer probes with what `look` finds while the context lasts; not at all if `port` is 0.

    Raises:
        ConfigurationError: the port cannot be bound.
    """
    routes = {"/healthz": _probe(look, judge_life), "/readyz": _probe(look, judge_readiness)}
    async with http_served(port, "--health-port", routes):
        yield


def _probe(look: Callable[[], Vitals], judge: Callable[[Vitals], Verdict]) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        vitals = look()
        verdict = judge(vitals)
        return web.json_response(
            {
                "ok": verdict.is_good,
                "reason": verdict.reason,
                "leader": vitals.leading_for_s is not None,
            },
            status=_GOOD if verdict.is_good else _BAD,
        )

    return answer
