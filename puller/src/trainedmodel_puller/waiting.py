"""What the puller answers while it does not know yet what kind of server it works for.

Alive, so that nobody restarts it for a server that takes minutes to start; not ready, with the
reason.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

_WHY: Final = "no model server has said yet which kind it is (--server auto)"


def waiting_application() -> web.Application:
    """Return the aiohttp application."""
    application = web.Application()
    application.router.add_get("/healthz", _healthz)
    application.router.add_get("/readyz", _readyz)
    application.router.add_get("/status", _status)
    return application


async def _healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _readyz(_: web.Request) -> web.Response:
    return web.Response(status=503, text=f"{_WHY}\n")


async def _status(_: web.Request) -> web.Response:
    return web.json_response(
        {"server": {"kind": "auto", "reachable": False, "message": _WHY}, "models": {}}
    )
