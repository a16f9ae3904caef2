"""The probes of the kubelet: `/healthz` and `/readyz`, on every replica, from its start to its end.

What they say is decided in `core.health`. They answer from the event loop of the operator, so a
loop that is blocked does not answer, which is the truth as well. The body says why, for people.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from trainedmodel_operator.core.health import Verdict, Vitals, judge_life, judge_readiness
from trainedmodel_operator.observability.listening import listen_everywhere

_GOOD, _BAD = 200, 503


@asynccontextmanager
async def probes_served(port: int, look: Callable[[], Vitals]) -> AsyncIterator[None]:
    """Answer probes with what `look` finds while the context lasts; not at all if `port` is 0.

    Raises:
        ConfigurationError: the port cannot be bound.
    """
    if port == 0:
        yield
        return
    application = web.Application()
    application.router.add_get("/healthz", _probe(look, judge_life))
    application.router.add_get("/readyz", _probe(look, judge_readiness))
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.SockSite(runner, listen_everywhere(port, "--health-port")).start()
        yield
    finally:
        await runner.cleanup()


def _probe(
    look: Callable[[], Vitals], judge: Callable[[Vitals], Verdict]
) -> Callable[[web.Request], Awaitable[web.Response]]:
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
