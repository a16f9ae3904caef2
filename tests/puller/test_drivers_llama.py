"""llama-server: which files are one model, and a list that makes no sense."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.puller.driver_builders import Handler, answering, entry, server_settings, target
from trainedmodel_puller.core.state import Layout, ServerState
from trainedmodel_puller.drivers.base import ServerGone, ServerInDoubt
from trainedmodel_puller.drivers.llama import Llama
from trainedmodel_puller.errors import ServerFault


def names(tree: Path) -> list[str]:
    return sorted(path.name for path in tree.iterdir())


def fill(tree: Path, *files: str) -> Path:
    for file in files:
        (tree / file).write_text(file)
    return tree


class TestFiles:
    @pytest.mark.parametrize(
        ("files", "fixed"),
        [
            (["Q4_K_M.gguf", "README.md"], ["README.md", "model.gguf"]),
            (["model.gguf"], ["model.gguf"]),
            (["mmproj-F16.gguf", "x.gguf"], ["mmproj-F16.gguf", "model.gguf"]),
            (
                ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"],
                ["model-00001-of-00002.gguf", "model-00002-of-00002.gguf"],
            ),
            # a kill came between two of the renames
            (
                ["model-00001-of-00002.gguf", "x-00002-of-00002.gguf"],
                ["model-00001-of-00002.gguf", "model-00002-of-00002.gguf"],
            ),
        ],
    )
    def test_the_one_model_gets_a_name_that_is_the_same_in_each_revision(
        self, tmp_path: Path, files: list[str], fixed: list[str]
    ) -> None:
        fill(tmp_path, *files)
        for _ in range(2):
            Llama(server_settings()).prepare(tmp_path, entry())
            assert names(tmp_path) == fixed

    def test_each_part_keeps_its_number(self, tmp_path: Path) -> None:
        files = [f"a-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
        Llama(server_settings()).prepare(fill(tmp_path, *files), entry())
        for number, file in enumerate(files, 1):
            assert (tmp_path / f"model-0000{number}-of-00003.gguf").read_text() == file

    @pytest.mark.parametrize(
        ("files", "word"),
        [
            (["model.safetensors"], r"found: model\.safetensors"),
            ([".hidden.gguf", "mmproj.gguf"], r"found: \.hidden\.gguf, mmproj\.gguf"),
            (["a.gguf", "b.gguf"], r"found: a\.gguf, b\.gguf"),
            (["a-00001-of-00002.gguf", "b.gguf"], "exactly one"),
            (["a-00001-of-00002.gguf", "b-00002-of-00002.gguf"], "exactly one"),
            (["a-00001-of-00003.gguf", "a-00003-of-00003.gguf"], "2 of the 3 parts"),
        ],
    )
    def test_a_layout_that_cannot_be_loaded_says_what_is_wrong(
        self, tmp_path: Path, files: list[str], word: str
    ) -> None:
        with pytest.raises(ServerFault, match=word) as caught:
            Llama(server_settings()).prepare(fill(tmp_path, *files), entry())
        assert caught.value.reason == "InvalidLayout"
        assert names(tmp_path) == sorted(files), "nothing was renamed"


def row(name: str, value: str, **status: object) -> dict[str, Any]:
    return {"id": name, "status": {"value": value, **status}}


@asynccontextmanager
async def driving(handler: Handler, **settings: Any) -> AsyncIterator[Llama]:
    async with answering(handler) as url:
        driver = Llama(server_settings(url, **settings))
        try:
            yield driver
        finally:
            await driver.close()


def listing(*rows: dict[str, Any]) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"data": list(rows)})

    return handler


class TestSight:
    async def test_only_what_is_loaded_or_on_its_way_is_there(self) -> None:
        rows = [
            row("a", "loaded"),
            row("b", "loading"),
            row("c", "unloaded"),
            row("d", "unloaded", failed=True, exit_code=1),
            row("e", "sleeping"),
            row("a..probe", "loaded"),
            row(".trash", "loaded"),
        ]
        async with driving(listing(*rows)) as driver:
            observation = await driver.observe(["a", "c", "z"])
        assert observation.states == {
            "a": ServerState.READY,
            "b": ServerState.LOADING,
            "e": ServerState.READY,
        }

    @pytest.mark.parametrize(
        "body",
        [
            "",
            "[]",
            "{}",
            '{"data": 1}',
            '{"data": [{"id": "m"}]}',
            '{"data": [{"id": "m", "object": "model"}]}',
            '{"data": [{"id": "m", "status": {"value": "dreaming"}}]}',
        ],
    )
    async def test_p2_a_list_that_makes_no_sense_is_doubt(self, body: str) -> None:
        async def handler(_: web.Request) -> web.Response:
            return web.Response(text=body)

        async with driving(handler) as driver:
            with pytest.raises(ServerInDoubt, match="router mode"):
                await driver.observe([])

    async def test_p2_a_list_that_is_refused_is_doubt(self) -> None:
        async def handler(_: web.Request) -> web.Response:
            return web.Response(status=503)

        async with driving(handler) as driver:
            with pytest.raises(ServerInDoubt, match="503"):
                await driver.observe([])

    async def test_nobody_listening_is_not_doubt_but_absence(self) -> None:
        driver = Llama(server_settings("http://127.0.0.1:1"))
        with pytest.raises(ServerGone):
            await driver.observe([])
        await driver.close()


class TestLoads:
    async def test_a_model_that_is_not_listed_names_the_flag(self, tmp_path: Path) -> None:
        async with driving(listing(), folder=tmp_path) as driver:
            with pytest.raises(ServerFault, match="--models-dir") as caught:
                await driver.load(target(is_in_place=True))
        assert caught.value.reason == "LoadFailed"

    async def test_a_load_that_never_ends_is_a_timeout(self, tmp_path: Path) -> None:
        rows = [row("m", "unloaded")]

        async def handler(request: web.Request) -> web.Response:
            if request.path == "/models/load":
                rows[0] = row("m", "loading")
            return web.json_response({"data": rows})

        async with driving(handler, folder=tmp_path, action_timeout_s=0.3) as driver:
            with pytest.raises(ServerFault, match="not loaded") as caught:
                await driver.load(target(is_in_place=True))
        assert caught.value.reason == "LoadTimeout"

    async def test_a_request_that_loads_it_again_is_named_in_the_failed_unload(self) -> None:
        port = 40000

        async def handler(request: web.Request) -> web.Response:
            nonlocal port
            port += request.path == "/models/unload"
            return web.json_response({"data": [row("m", "loaded", args=["--port", str(port)])]})

        async with driving(handler) as driver:
            with pytest.raises(ServerFault, match="--no-models-autoload") as caught:
                await driver.unload("m")
        assert caught.value.reason == "UnloadFailed"

    async def test_unloading_what_is_not_there_is_done(self) -> None:
        async def handler(request: web.Request) -> web.Response:
            if request.path == "/models/unload":
                return web.Response(status=400)
            return web.json_response({"data": []})

        async with driving(handler) as driver:
            await driver.unload("m")

    async def test_the_links_of_a_killed_puller_are_removed(self, tmp_path: Path) -> None:
        (tmp_path / "old..probe").symlink_to("old")
        (tmp_path / "kept").mkdir()
        async with driving(listing(), folder=tmp_path) as driver:
            with pytest.raises(ServerFault):
                await driver.load(target(is_in_place=True))
        assert names(tmp_path) == ["kept"]


def test_updates_happen_in_place() -> None:
    assert Llama(server_settings()).layout is Layout.IN_PLACE
