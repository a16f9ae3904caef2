"""Which server is it: recorded answers of real ones, stand-ins, and all that must not be guessed.

The recorded words are of Triton 2.51, MLServer 1.7.1, KServe 0.21, llama-server b10434, Multi Model
Server 1.1.11, TorchServe 0.12 and vLLM 0.32. `integration/test_auto.py` asks real ones.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web
from puller.standins import (
    StandInOvms,
    StandInSGLang,
    StandInTfs,
    StandInVLLM,
    recorded,
    running,
)
from trainedmodel_puller.drivers import auto
from trainedmodel_puller.drivers.auto import Identity, identify

EndpointHandlers = dict[str, tuple[int, str]]


def described(title: str) -> str:
    """What both management servers answer on /api-description, cut."""
    return json.dumps({"openapi": "3.0.1", "info": {"title": title, "version": "1"}, "paths": {}})


NO_MODELS = '{\n  "models": []\n}\n'
RECORDED: dict[str, EndpointHandlers] = {
    "triton": {
        "/v2": (
            200,
            '{"name":"triton","version":"2.51.0","extensions":["classification","sequence",'
            '"model_repository","statistics","trace","logging"]}',
        )
    },
    "mlserver": {"/v2": (200, '{"name":"mlserver","version":"1.7.1","extensions":[]}')},
    "kserve": {
        "/v2": (
            200,
            '{"name":"kserve","version":"0.21.0","extensions":["model_repository_extension"]}',
        ),
        "/v1/models": (200, '{"models":[]}'),
        "/v1/models/trainedmodel-nobody": (
            404,
            '{"error":"Model with name trainedmodel-nobody does not exist."}',
        ),
    },
    "llama": {
        "/v1/models": (200, '{"data":[],"object":"list"}'),
        "/models": (200, '{"data":[],"object":"list"}'),
        "/props": (
            200,
            '{"role":"router","max_instances":0,"models_autoload":false,'
            '"model_alias":"llama-server","model_path":"none"}',
        ),
    },
    "mms": {
        "/models": (200, NO_MODELS),
        "/api-description": (200, described("Model Server APIs")),
    },
    "torchserve": {
        "/models": (200, NO_MODELS),
        "/api-description": (200, described("TorchServe APIs")),
    },
    "vllm": {
        "/version": (200, '{"version":"0.32.0"}'),
        "/v1/models": (
            200,
            '{"object":"list","data":[{"id":"base","object":"model","owned_by":"vllm",'
            '"root":"/models/base","parent":null,"max_model_len":128}]}',
        ),
    },
}
NOT_SURE: dict[str, EndpointHandlers] = {
    "nothing known": {},
    "a v2 server of another name": {"/v2": (200, '{"name":"other","version":"1"}')},
    "a name that is no answer": {"/v2": (500, '{"name":"triton"}')},
    "yes to everything": dict.fromkeys(auto._PATHS, (200, "{}")),
    "a web page everywhere": dict.fromkeys(auto._PATHS, (200, "<html>")),
    "lists everywhere": dict.fromkeys(auto._PATHS, (200, "[]")),
    "predictions of TorchServe": {"/api-description": (200, described("TorchServe APIs"))},
    "an imitator of vLLM's list": {"/v1/models": RECORDED["vllm"]["/v1/models"]},
    "one llama without a router": {
        **RECORDED["llama"],
        "/props": (200, '{"model_path":"/m.gguf"}'),
    },
    "words of two": {**RECORDED["vllm"], **RECORDED["torchserve"]},
    "somebody else's 404": {
        "/v1/models/trainedmodel-nobody": (404, '{"error":"no such model"}'),
        "/v1/config": (200, "{}"),
    },
}


@pytest.mark.parametrize("kind", RECORDED)
async def test_a_server_is_known_by_what_it_said(kind: str) -> None:
    software = "llama.cpp" if kind == "llama" else "uvicorn"
    async with running(recorded(RECORDED[kind], software)) as url:
        assert await identify(url) == Identity(kind, url)
        assert await identify(f"{url}/") == Identity(kind, url)


@pytest.mark.parametrize("what", NOT_SURE)
async def test_what_is_not_sure_is_not_guessed(what: str) -> None:
    async with running(recorded(NOT_SURE[what], "llama.cpp")) as url:
        assert await identify(url) is None


async def test_a_router_that_is_not_llamas_is_not_llama() -> None:
    async with running(recorded(RECORDED["llama"], "nginx")) as url:
        assert await identify(url) is None


async def test_servers_that_stand_ins_play_are_told_apart(tmp_path: Path) -> None:
    applications = {
        "vllm": StandInVLLM().application(),
        "sglang": StandInSGLang().application(),
        "tfs": StandInTfs(tmp_path / "models.config").application(),
        "ovms": StandInOvms(tmp_path / "config.json").application(),
    }
    for kind, application in applications.items():
        async with running(application) as url:
            assert await identify(url) == Identity(kind, url)


async def test_without_an_address_the_usual_ones_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(running(recorded(RECORDED["triton"])))
        page = await stack.enter_async_context(running(recorded({})))
        monkeypatch.setattr(auto, "DEFAULT_URLS", ("http://127.0.0.1:1", page, one))
        assert await identify() == Identity("triton", one)


async def test_two_servers_that_answer_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    async with AsyncExitStack() as stack:
        urls = [
            await stack.enter_async_context(running(recorded(RECORDED[kind])))
            for kind in ("triton", "mlserver")
        ]
        monkeypatch.setattr(auto, "DEFAULT_URLS", tuple(urls))
        assert await identify() is None
        assert await identify(urls[1]) == Identity("mlserver", urls[1])


async def test_nobody_is_nobody() -> None:
    assert await identify("http://127.0.0.1:1") is None


async def test_a_silent_server_is_waited_for_only_so_long() -> None:
    silence = asyncio.Event()

    async def hold(_: web.Request) -> web.Response:
        await silence.wait()
        return web.Response()

    application = web.Application()
    application.router.add_get("/{tail:.*}", hold)
    async with running(application) as url:
        assert await identify(url, timeout_s=0.1) is None
        silence.set()


async def test_an_endless_answer_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_MAX_BODY", 1000)
    async with running(recorded({"/v2": (200, '{"name":"triton"}' + " " * 2000)})) as url:
        assert await identify(url) is None


async def test_only_gets_are_sent_and_a_named_server_gets_one() -> None:
    seen: list[tuple[str, str]] = []

    async def note(request: web.Request) -> web.Response:
        seen.append((request.method, request.path))
        return web.json_response({"name": "triton"})

    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", note)
    async with running(application) as url:
        assert await identify(url) == Identity("triton", url)
    assert seen == [("GET", "/v2")]
