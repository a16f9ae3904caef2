"""What the drivers' unit tests are made of: entries, settings, and servers that say what they must.

The servers here are for words and faults that a real server cannot be made to say on demand; all
else is tested on the real ones (`integration/test_servers.py`, `integration/test_more_servers.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer
from trainedmodel_contract.entry import Entry
from trainedmodel_puller.drivers.base import ServerSettings, Target

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def entry(framework: str = "", name: str = "served", **fields: object) -> Entry:
    return Entry.model_validate(
        {"name": name, "storageUri": "s3://b/x", "revision": "r", "framework": framework, **fields}
    )


def server_settings(
    url: str = "http://x", action_timeout_s: float = 60, folder: Path = Path("/models")
) -> ServerSettings:
    return ServerSettings(url, folder, folder, action_timeout_s)


def target(name: str = "m", revision: str = "r", *, is_in_place: bool = False) -> Target:
    path = Path("/models") / name
    tree = path if is_in_place else path / revision
    return Target(name, revision, tree, entry(name=name, revision=revision))


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[str]:
    """Answer every request by `handler`; gives the address."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", answer)
    async with TestServer(application) as server:
        yield str(server.make_url(""))
