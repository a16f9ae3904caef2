"""What all drivers share: defaults, the ping, and how an unexpected answer becomes doubt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.puller.driver_builders import Handler, answering, server_settings
from trainedmodel_puller.drivers.base import ModelServer, ServerInDoubt
from trainedmodel_puller.drivers.client import JsonShape, ServerClient
from trainedmodel_puller.drivers.driver import Driver
from trainedmodel_puller.drivers.factory import SERVER_KINDS, make_server

_MODELS, _DATA, _STATUS = '{"models": %s}', '{"data": %s}', '{"model_version_status": %s}'
#: By kind: the path of the list that `observe` reads, the name of that document, and where in it
#: the list is.
LISTS = {
    "triton": ("/v2/repository/index", "model index", "%s"),
    "mlserver": ("/v2/repository/index", "model index", "%s"),
    "kserve": ("/v2/models", "model list", _MODELS),
    "torchserve": ("/models", "model list", _MODELS),
    "mms": ("/models", "model list", _MODELS),
    "llama": ("/models", "model list", _DATA),
    "vllm": ("/v1/models", "model list", _DATA),
    "sglang": ("/v1/models", "model list", _DATA),
    "tfs": ("/v1/models/m", "model status", _STATUS),
    "ovms": ("/v1/config", "model status", f'{{"m": {_STATUS}}}'),
}
_LENGTH = JsonShape("name list", lambda document: len(document["names"]))


@asynccontextmanager
async def driving(kind: str, handler: Handler, folder: Path) -> AsyncIterator[ModelServer]:
    async with answering(handler) as url:
        driver = make_server(kind, server_settings(url, folder=folder))
        try:
            yield driver
        finally:
            await driver.close()


def lists_answer(kind: str, status: int, body: str) -> Handler:
    """Answer the list of a kind with a body, and everything else with an empty 200."""
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        if kind == "kserve" and request.path == "/v2/repository/index":
            return web.Response(status=404)
        # The ping of some kinds has the path of their list.
        is_ping = request.query.get("limit") == "1" or (
            kind in {"sglang", "ovms"} and not asked[1:]
        )
        if request.path == LISTS[kind][0] and not is_ping:
            return web.Response(status=status, text=body)
        return web.Response()

    return handler


def test_each_kind_with_a_server_has_a_list_here() -> None:
    assert set(LISTS) == set(SERVER_KINDS) - {"none"}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("part", ["1", '"x"', '""', "{}", '{"a": 1}', "null", "["])
async def test_p2_a_malformed_list_is_doubt_that_names_the_document(
    kind: str, part: str, tmp_path: Path
) -> None:
    _, name, form = LISTS[kind]
    for body in (form % part, "", "7"):
        async with driving(kind, lists_answer(kind, 200, body), tmp_path) as driver:
            with pytest.raises(ServerInDoubt, match=f"^{kind} returned a malformed {name}"):
                await driver.observe(["m"])


@pytest.mark.parametrize("body", ['"x"', "[]", "null"])
async def test_p2_a_status_of_all_models_that_is_no_object_is_doubt(
    body: str, tmp_path: Path
) -> None:
    async with driving("ovms", lists_answer("ovms", 200, body), tmp_path) as driver:
        with pytest.raises(ServerInDoubt, match=r"^ovms returned a malformed model status"):
            await driver.observe(["m"])


@pytest.mark.parametrize("kind", LISTS)
async def test_p2_a_refused_list_is_doubt_that_names_status_path_and_cause(
    kind: str, tmp_path: Path
) -> None:
    handler = lists_answer(kind, 500, '{"error": "out of memory"}')
    async with driving(kind, handler, tmp_path) as driver:
        with pytest.raises(ServerInDoubt) as caught:
            await driver.observe(["m"])
    assert str(caught.value) == f"{kind} returned 500 for {LISTS[kind][0]}: out of memory"


@pytest.mark.parametrize("kind", SERVER_KINDS)
def test_each_driver_has_the_shared_defaults(kind: str, tmp_path: Path) -> None:
    driver = make_server(kind, server_settings(folder=tmp_path))
    assert isinstance(driver, Driver)
    assert driver.kind == kind
    if kind not in {"tfs", "ovms"}:  # they number their versions
        assert driver.folder_name("r1") == "r1"


class TestJson:
    @asynccontextmanager
    async def client(self, status: int, body: str) -> AsyncIterator[ServerClient]:
        async def handler(_: web.Request) -> web.Response:
            return web.Response(status=status, text=body)

        async with answering(handler) as url:
            made = ServerClient("triton", url)
            try:
                yield made
            finally:
                await made.close()

    async def test_a_document_of_the_expected_shape_is_read(self) -> None:
        async with self.client(200, '{"names": ["a", "b"]}') as client:
            assert await client.get_json("/x", _LENGTH) == 2
            assert await client.find_json("/x", _LENGTH) == 2

    async def test_404_is_doubt_unless_the_caller_looks_for_something(self) -> None:
        async with self.client(404, "") as client:
            assert await client.find_json("/x", _LENGTH) is None
            with pytest.raises(ServerInDoubt, match=r"^triton returned 404 for /x$"):
                await client.get_json("/x", _LENGTH)

    @pytest.mark.parametrize("status", [201, 204, 301, 400, 503])
    async def test_p2_any_other_status_is_doubt(self, status: int) -> None:
        async with self.client(status, "") as client:
            with pytest.raises(ServerInDoubt, match=f"returned {status} for /x"):
                await client.get_json("/x", _LENGTH)
            with pytest.raises(ServerInDoubt, match=f"returned {status} for /x"):
                await client.find_json("/x", _LENGTH)

    @pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, AttributeError])
    async def test_p2_an_error_while_reading_is_doubt(self, error: type[Exception]) -> None:
        def read(_: Any) -> int:
            raise error

        async with self.client(200, "{}") as client:
            with pytest.raises(ServerInDoubt, match="triton returned a malformed name list"):
                await client.get_json("/x", JsonShape("name list", read))
