"""The HTTP server of the operator's own endpoints: probes and metrics, each on its own port.

Both are served by the event loop, so a handler must not block it. A loop that is stuck does not
answer, and then the liveness probe fails, as it should.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

from trainedmodel_operator.observability.listening import listen_everywhere

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def http_served(port: int, flag: str, routes: Mapping[str, Handler]) -> AsyncIterator[None]:
    """Answer GET requests by path while the context lasts; not at all if `port` is 0.

    Raises:
        ConfigurationError: the port cannot be bound; names the flag that asked for it.
    """
    if port == 0:
        yield
        return
    application = web.Application()
    for path, handler in routes.items():
        application.router.add_get(path, handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.SockSite(runner, listen_everywhere(port, flag)).start()
        yield
    finally:
        await runner.cleanup()
