"""The fence: open without an election, and asked again when a write is about to leave."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web
from trainedmodel_operator.errors import NotLeading
from trainedmodel_operator.leadership.leader import NoElection, fence_at_the_wire
from trainedmodel_operator.observability.metrics import Metrics


async def test_without_an_election_a_replica_leads_from_the_start() -> None:
    metrics = Metrics()
    alone = NoElection(metrics)
    began = asyncio.Event()

    async def work() -> None:
        alone.fence()
        began.set()

    await alone.run(work)
    assert began.is_set()
    assert metrics.registry.get_sample_value("trainedmodel_operator_leader") == 1


async def test_o9_a_fence_that_shuts_while_a_connection_is_made_stops_the_write() -> None:
    arrived: list[str] = []

    async def note(request: web.Request) -> web.Response:
        arrived.append(request.method)
        return web.Response()

    application = web.Application()
    application.router.add_route("*", "/", note)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"

    def shut() -> None:
        raise NotLeading("shut")

    try:
        async with aiohttp.ClientSession(trace_configs=[fence_at_the_wire(shut)]) as session:
            for method in ("POST", "PATCH", "DELETE", "PUT"):
                with pytest.raises(NotLeading):
                    await session.request(method, url, json={})
            (await session.get(url)).close()
    finally:
        await runner.cleanup()
    assert arrived == ["GET"]
