"""The endpoints of a starting puller, and the router to the current endpoints.

At start the kind of the server must be detected and the volume must be read. Meanwhile the puller
is alive, not ready, and names the thing that it waits for: it must not be restarted for a server or
a volume that takes minutes. Then `endpoints.Endpoints` answers. The port stays open all the time,
because a probe fails if nothing listens.
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
    """A set of endpoints."""

    async def healthz(self, request: web.Request, /) -> web.Response:
        """Answer whether a restart would help."""
        ...

    async def readyz(self, request: web.Request, /) -> web.Response:
        """Answer whether the pod may get requests."""
        ...

    async def status(self, request: web.Request, /) -> web.Response:
        """Answer with the status document."""
        ...

    async def metrics(self, request: web.Request, /) -> web.Response:
        """Answer with the metrics."""
        ...


class Waiting:
    """Answers while the puller waits: alive, and not ready.

    Args:
        reason: The thing that the puller waits for.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def healthz(self, _: web.Request, /) -> web.Response:
        """Answer that the puller is alive."""
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request, /) -> web.Response:
        """Answer that the puller is not ready, with the reason."""
        return web.Response(status=503, text=f"{self._reason}\n")

    async def status(self, _: web.Request, /) -> web.Response:
        """Refuse: an empty document would look like no models."""
        return web.Response(status=503, text=f"{self._reason}\n")

    async def metrics(self, _: web.Request, /) -> web.Response:
        """Refuse: gauges that are not set yet would read as zeros."""
        return web.Response(status=503, text=f"{self._reason}\n")


class WaitingForServer(Waiting):
    """Answers while the server is not detected, which may take long, so `/status` works too."""

    def __init__(self) -> None:
        super().__init__(_NO_SERVER)

    async def status(self, _: web.Request, /) -> web.Response:
        """Answer that the server is not detected."""
        server = {"kind": "auto", "reachable": False, "message": _NO_SERVER}
        return web.json_response({"server": server, "models": {}})


class EndpointRouter:
    """Passes each request to the current endpoints."""

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
