"""The one listener of the puller, from its first moment to its last, and who answers behind it.

At first nobody can: the server must say what kind it is, the volume must be read. The puller is
alive meanwhile, and must not be restarted for a server or a volume that takes minutes; it is not
ready, and says what it waits for. Then `endpoints.Endpoints` answers. The port is never let go
between: a probe that finds nobody listening counts as a failed one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from aiohttp import web

#: Every path, and the method that answers it.
_PATHS: Final = {
    "/healthz": "healthz",
    "/readyz": "readyz",
    "/status": "status",
    "/metrics": "metrics",
}
_STARTING: Final = "the puller is starting"
_NO_SERVER: Final = "could not detect the model server yet (--server auto)"


class EndpointHandlers(Protocol):
    """Whoever answers requests."""

    async def healthz(self, request: web.Request, /) -> web.Response:
        """Say whether a restart would help."""
        ...

    async def readyz(self, request: web.Request, /) -> web.Response:
        """Say whether requests may come to the pod."""
        ...

    async def status(self, request: web.Request, /) -> web.Response:
        """Say everything, for people."""
        ...

    async def metrics(self, request: web.Request, /) -> web.Response:
        """Say what Prometheus asks."""
        ...


class Waiting:
    """Answers while the puller waits: alive, and not ready.

    Args:
        reason: What is waited for.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def healthz(self, _: web.Request, /) -> web.Response:
        """Say that it is alive."""
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request, /) -> web.Response:
        """Say what is waited for."""
        return web.Response(status=503, text=f"{self._reason}\n")

    async def status(self, _: web.Request, /) -> web.Response:
        """Refuse: models that nobody looked for yet would read as none."""
        return web.Response(status=503, text=f"{self._reason}\n")

    async def metrics(self, _: web.Request, /) -> web.Response:
        """Refuse: numbers that nobody counted yet would read as zeros."""
        return web.Response(status=503, text=f"{self._reason}\n")


class WaitingForServer(Waiting):
    """Answers while no server has said what kind it is, which may be long: people look."""

    def __init__(self) -> None:
        super().__init__(_NO_SERVER)

    async def status(self, _: web.Request, /) -> web.Response:
        """Say that no server is known."""
        server = {"kind": "auto", "reachable": False, "message": _NO_SERVER}
        return web.json_response({"server": server, "models": {}})


class EndpointRouter:
    """Hands each request to whoever answers at that moment."""

    def __init__(self) -> None:
        self.answers: EndpointHandlers = Waiting(_STARTING)

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        return application_of(lambda: self.answers)


def application_of(who: Callable[[], EndpointHandlers]) -> web.Application:
    """Return the application that asks `who` for each request."""
    application = web.Application()
    for path, method in _PATHS.items():
        application.router.add_get(path, _handler(who, method))
    return application


def _handler(
    who: Callable[[], EndpointHandlers], method: str
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        answer: Callable[[web.Request], Awaitable[web.Response]] = getattr(who(), method)
        return await answer(request)

    return handle
