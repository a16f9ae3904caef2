"""KServe's ModelServer: an index that may not be there, and 503 for a model's own fault."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from support.puller.driver_builders import Handler, answering, server_settings, target
from trainedmodel_puller.core.state import ServerState
from trainedmodel_puller.drivers.base import ServerGone, ServerInDoubt
from trainedmodel_puller.drivers.kserve import KServe
from trainedmodel_puller.errors import ServerFault


@asynccontextmanager
async def driving(handler: Handler) -> AsyncIterator[KServe]:
    async with answering(handler) as url:
        driver = KServe(server_settings(url))
        try:
            yield driver
        finally:
            await driver.close()


class Server:
    """Answers as KServe does; `index` is what its index says, None that it has none."""

    def __init__(self, ready: dict[str, int], index: object = None) -> None:
        self.ready = ready
        self.index = index
        self.asked: list[str] = []

    async def __call__(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        match request.path.split("/"):
            case [_, "v2", "health", "live"]:
                return web.Response()
            case [_, "v2", "repository", "index"]:
                return web.Response(status=404) if self.index is None else self._index()
            case [_, "v2", "models"]:
                return web.json_response({"models": list(self.ready)})
            case [_, "v2", "models", name, "ready"]:
                return web.Response(status=self.ready.get(name, 404))
        return web.json_response({"error": "Model with name m is not ready."}, status=503)

    def _index(self) -> web.Response:
        return web.json_response(self.index)


async def test_without_an_index_the_models_in_memory_are_asked_for() -> None:
    server = Server({"a": 200, "b": 503, "c": 200})
    async with driving(server) as driver:
        for _ in range(2):
            observation = await driver.observe(["a", "b", "z"])
            assert observation.states == {"a": ServerState.READY, "c": ServerState.READY}
    assert server.asked.count("/v2/repository/index") == 1, "its absence is remembered"


async def test_an_index_is_used_where_there_is_one() -> None:
    server = Server({"kept": 200}, [{"name": "a", "state": "READY", "reason": ""}])
    async with driving(server) as driver:
        observation = await driver.observe(["a", "kept", "gone"])
    assert observation.states == {"a": ServerState.READY, "kept": ServerState.READY}
    assert "/v2/models" not in server.asked


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"models": {}}', "null"])
async def test_p2_a_list_that_makes_no_sense_is_doubt(body: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path.endswith("index"):
            return web.Response(status=404)
        return web.Response(text=body)

    async with driving(handler) as driver:
        with pytest.raises(ServerInDoubt):
            await driver.observe([])


async def test_p2_a_server_that_fails_over_one_model_is_in_doubt() -> None:
    async with driving(Server({"a": 500})) as driver:
        with pytest.raises(ServerInDoubt, match="500"):
            await driver.observe([])


async def test_p2_no_list_of_any_kind_is_doubt_and_the_index_is_tried_again() -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=200 if request.path.endswith("live") else 404)

    async with driving(handler) as driver:
        for _ in range(2):
            with pytest.raises(ServerInDoubt):
                await driver.observe([])
    assert asked.count("/v2/repository/index") == 2


async def test_nobody_listening_is_not_doubt_but_absence() -> None:
    driver = KServe(server_settings("http://127.0.0.1:1"))
    with pytest.raises(ServerGone):
        await driver.observe([])
    await driver.close()


async def test_a_503_to_a_load_is_a_failure_with_the_servers_words() -> None:
    async with driving(Server({})) as driver:
        with pytest.raises(ServerFault, match="is not ready") as caught:
            await driver.load(target())
    assert caught.value.reason == "LoadFailed"
