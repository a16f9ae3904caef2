"""What the drivers know of their servers' files and words, and how they take faults on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from support.puller.driver_builders import Handler, answering, entry, server_settings, target
from trainedmodel_puller.core.pbtxt import without_name
from trainedmodel_puller.core.state import ServerState
from trainedmodel_puller.drivers import v2
from trainedmodel_puller.drivers.base import (
    ServerGone,
    ServerHungUp,
    ServerInDoubt,
)
from trainedmodel_puller.drivers.client import words
from trainedmodel_puller.drivers.factory import make_server
from trainedmodel_puller.drivers.mlserver import MLServer
from trainedmodel_puller.drivers.triton import Triton
from trainedmodel_puller.errors import ServerFault, SettingsError


class TestMLServerFiles:
    def test_the_served_name_is_written_into_the_settings(self, tmp_path: Path) -> None:
        path = tmp_path / "model-settings.json"
        path.write_text('{"name": "other", "implementation": "x.Y", "parameters": {"uri": "./m"}}')
        MLServer(server_settings()).prepare(tmp_path, entry())
        settings = json.loads(path.read_text())
        assert settings["name"] == "served"
        assert settings["implementation"] == "x.Y"

    @pytest.mark.parametrize(
        ("framework", "artefact", "runtime"),
        [
            ("sklearn", "model.joblib", "mlserver_sklearn.SKLearnModel"),
            ("xgboost", "model.bst", "mlserver_xgboost.XGBoostModel"),
            ("lightgbm", "model.txt", "mlserver_lightgbm.LightGBMModel"),
        ],
    )
    def test_settings_are_made_for_a_bare_artefact(
        self, tmp_path: Path, framework: str, artefact: str, runtime: str
    ) -> None:
        (tmp_path / artefact).write_bytes(b"")
        MLServer(server_settings()).prepare(tmp_path, entry(framework))
        settings = json.loads((tmp_path / "model-settings.json").read_text())
        assert settings == {
            "name": "served",
            "implementation": runtime,
            "parameters": {"uri": f"./{artefact}"},
        }

    @pytest.mark.parametrize(
        ("files", "framework", "word"),
        [
            (["model.bin"], "sklearn", "found: model.bin"),
            (["a.joblib", "b.pkl"], "sklearn", "a.joblib, b.pkl"),
            (["model.onnx"], "onnx", "'onnx'.*found: model.onnx"),
        ],
    )
    def test_a_layout_that_cannot_be_loaded_says_what_is_missing(
        self, tmp_path: Path, files: list[str], framework: str, word: str
    ) -> None:
        for file in files:
            (tmp_path / file).write_bytes(b"")
        with pytest.raises(ServerFault, match=word) as caught:
            MLServer(server_settings()).prepare(tmp_path, entry(framework))
        assert caught.value.reason == "InvalidLayout"

    @pytest.mark.parametrize("content", ["{", "[]"])
    def test_settings_that_are_no_object_are_named(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "model-settings.json").write_text(content)
        with pytest.raises(ServerFault, match=r"model-settings\.json"):
            MLServer(server_settings()).prepare(tmp_path, entry())


class TestTritonFiles:
    def test_a_source_without_a_version_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ServerFault, match="version folder"):
            Triton(server_settings()).prepare(tmp_path, entry())

    def test_another_name_is_taken_out_of_the_config(self, tmp_path: Path) -> None:
        (tmp_path / "1").mkdir()
        config = tmp_path / "config.pbtxt"
        config.write_text('name: "other"\nbackend: "python"\n')
        Triton(server_settings()).prepare(tmp_path, entry())
        assert config.read_text() == '\nbackend: "python"\n'

    @pytest.mark.parametrize(
        ("text", "without"),
        [
            ('input [ { name: "x" } ]', None),
            ('input [ { name: "x" } ] name: "m" output [ { name: "y" } ]', 'name: "m"'),
            ("name: 'm'", "name: 'm'"),
            ('# name: "no"\nbackend: "name: \\"no\\""', None),
            ('backend_name: "no"', None),
            ('platform: "{" name: "m"', 'name: "m"'),
            ("", None),
        ],
    )
    def test_only_the_top_level_name_is_taken_out(self, text: str, without: str | None) -> None:
        assert without_name(text) == (text.replace(without, "") if without else text)

    def test_every_time_stamp_becomes_new(self, tmp_path: Path) -> None:
        import os

        inner = tmp_path / "1" / "model.py"
        inner.parent.mkdir()
        inner.write_text("")
        for path in (inner, inner.parent, tmp_path):
            os.utime(path, (1, 1))
        Triton(server_settings()).touch(tmp_path)
        assert all(path.stat().st_mtime > 1 for path in (inner, inner.parent, tmp_path))


class TestWords:
    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b'{"error":"Model x not found"}', "Model x not found"),
            (b'{"detail":"Not Found"}', "Not Found"),
            (b'{"error":{"message":"no adapter"}}', "no adapter"),
            (b'{"success":false,"error_message":"not enabled"}', "not enabled"),
            (b"Internal Server Error", "Internal Server Error"),
            (b"", ""),
            (
                b'Traceback (most recent call last):\n  File "x", line 1\nValueError: no weights\n',
                "ValueError: no weights",
            ),
            (b"\xff\xfe", "\ufffd\ufffd"),
        ],
    )
    def test_the_telling_part_of_an_error_body_is_kept(self, body: bytes, said: str) -> None:
        assert words(body) == said

    def test_it_is_cut(self) -> None:
        assert len(words(b"x" * 10_000)) == 300


@asynccontextmanager
async def serving(handler: Handler, action_timeout_s: float = 60) -> AsyncIterator[MLServer]:
    async with answering(handler) as url:
        driver = MLServer(server_settings(url, action_timeout_s))
        try:
            yield driver
        finally:
            await driver.close()


class TestDoubt:
    async def test_nobody_listening_is_not_doubt_but_absence(self) -> None:
        driver = MLServer(server_settings("http://127.0.0.1:1"))
        with pytest.raises(ServerGone):
            await driver.observe(["m"])
        await driver.close()

    @pytest.mark.parametrize("status", [400, 404, 500, 503])
    async def test_p2_an_index_that_is_refused_is_doubt(self, status: int) -> None:
        async def handler(request: web.Request) -> web.Response:
            return web.Response(status=200 if "live" in request.path else status)

        async with serving(handler) as driver:
            with pytest.raises(ServerInDoubt):
                await driver.observe([])

    @pytest.mark.parametrize("body", ["", "{", "{}", '"x"', "[1]", '[{"state":"READY"}]', "null"])
    async def test_p2_an_index_that_makes_no_sense_is_doubt(self, body: str) -> None:
        async def handler(_: web.Request) -> web.Response:
            return web.Response(text=body)

        async with serving(handler) as driver:
            with pytest.raises(ServerInDoubt):
                await driver.observe([])

    async def test_names_that_the_index_lacks_are_asked_for(self) -> None:
        async def handler(request: web.Request) -> web.Response:
            if "index" in request.path:
                return web.json_response([{"name": "a", "state": "READY", "reason": ""}])
            is_known = request.path in {"/v2/health/live", "/v2/models/kept/ready"}
            return web.Response(status=200 if is_known else 404)

        async with serving(handler) as driver:
            observation = await driver.observe(["a", "kept", "gone"])
            assert observation.states == {"a": ServerState.READY, "kept": ServerState.READY}
            assert observation.revisions == {}

    async def test_a_200_to_a_load_is_not_believed_without_readiness(self) -> None:
        async def handler(request: web.Request) -> web.Response:
            return web.Response(status=400 if request.path.endswith("ready") else 200)

        async with serving(handler) as driver:
            with pytest.raises(ServerFault, match="200 for the load, but the model is not ready"):
                await driver.load(target())

    async def test_settings_that_mlserver_cannot_use_are_named(self) -> None:
        async def handler(request: web.Request) -> web.Response:
            return web.json_response({"error": "Model m not found"}, status=404)

        async with serving(handler) as driver:
            with pytest.raises(ServerFault, match=r"cannot use model-settings\.json"):
                await driver.load(target())

    async def test_a_server_that_is_busy_after_a_load_is_asked_again_and_not_doubted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fifty loads at once on a busy node: a readiness that took 5 s stopped all other loads."""
        monkeypatch.setattr(v2, "OBSERVE_TIMEOUT_S", 0.2)
        monkeypatch.setattr(v2, "_POLL_S", 0.01)
        asked = 0

        async def handler(request: web.Request) -> web.Response:
            nonlocal asked
            if request.path.endswith("/ready"):
                asked += 1
                await asyncio.sleep(0.6 if asked <= 2 else 0)
            return web.Response()

        async with serving(handler) as driver:
            await driver.load(target())
        assert asked == 3

    async def test_an_update_without_an_answer_is_never_taken_for_loaded(self) -> None:
        async def handler(request: web.Request) -> web.Response:
            if request.path.endswith("/load"):
                await asyncio.sleep(5)
            return web.Response()  # the old revision is ready all along

        async with serving(handler, action_timeout_s=0.2) as driver:
            with pytest.raises(ServerFault, match="not known") as caught:
                await driver.load(target())
            assert caught.value.reason == "LoadTimeout"

    async def test_a_server_that_dies_of_a_model_counts_as_a_failed_load(self) -> None:
        async def handler(request: web.Request) -> web.Response:
            if request.path.endswith("/m/ready"):
                return web.Response(status=404)  # not loaded before
            assert request.transport is not None
            request.transport.close()
            return web.Response()

        async with serving(handler) as driver:
            with pytest.raises(ServerFault, match="during the load"):
                await driver.load(target())
            with pytest.raises(ServerHungUp):
                await driver.observe([])

    async def test_unloading_what_is_not_there_is_done(self) -> None:
        async def handler(_: web.Request) -> web.Response:
            return web.Response(status=404)

        async with serving(handler) as driver:
            await driver.unload("m")


class TestSignOfLife:
    async def test_the_same_process_is_known_by_its_connection(self) -> None:
        async def handler(_: web.Request) -> web.Response:
            return web.Response()

        async with serving(handler) as driver:
            assert not await driver.ping(), "nothing was known before"
            assert await driver.ping()
            assert await driver.ping()

    async def test_a_new_connection_may_be_another_process(self) -> None:
        async def handler(_: web.Request) -> web.Response:
            return web.Response(headers={"connection": "close"})

        async with serving(handler) as driver:
            await driver.ping()
            assert not await driver.ping()

    async def test_p2_a_bad_answer_is_no_sign_of_life(self) -> None:
        async def handler(_: web.Request) -> web.Response:
            return web.Response(status=503)

        async with serving(handler) as driver:
            with pytest.raises(ServerInDoubt, match="503"):
                await driver.ping()


def test_an_unknown_kind_of_server_is_named_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"mlserver.*triton.*none"):
        make_server("nginx", server_settings())
