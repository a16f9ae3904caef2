"""Multi Model Server and TorchServe: lists that make no sense, unanswered loads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from support.puller.driver_builders import Handler, answering, entry, server_settings, target
from trainedmodel_puller.core.state import Layout, ServerState
from trainedmodel_puller.drivers import management
from trainedmodel_puller.drivers.base import ServerGone, ServerHungUp, ServerInDoubt
from trainedmodel_puller.drivers.management import ManagementServer
from trainedmodel_puller.drivers.mms import MultiModelServer
from trainedmodel_puller.drivers.torchserve import TorchServe
from trainedmodel_puller.errors import ServerFault

pytestmark = pytest.mark.slow


def row(name: str, url: str, *workers: str) -> dict[str, Any]:
    return {
        "modelName": name,
        "modelUrl": url,
        "modelVersion": url.rpartition("/")[2],
        "workers": [{"status": word} for word in workers],
    }


class Registry:
    """What a management API says: rows by name; every request is kept."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = {row["modelName"]: row for row in rows}
        self.asked: list[str] = []
        self.is_listed = False

    async def __call__(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path_qs}")
        if request.path == "/models":
            first = int(request.query.get("next_page_token", 0))
            last = first + int(request.query["limit"])
            rows = list(self.rows.values())[first:last]
            document: dict[str, Any] = {"models": rows}
            if last < len(self.rows):
                document["nextPageToken"] = str(last)
            return web.json_response(document)
        name, _, version = request.path.removeprefix("/models/").partition("/")
        found = self.rows.get(name)
        if found is None or version not in {"", "all", found["modelVersion"]}:
            return web.Response(status=404)
        return web.json_response([found] if self.is_listed else found)


@asynccontextmanager
async def driving(
    kind: type[ManagementServer], handler: Handler, action_timeout_s: float = 60
) -> AsyncIterator[ManagementServer]:
    async with answering(handler) as url:
        driver = kind(server_settings(url, action_timeout_s))
        try:
            yield driver
        finally:
            await driver.close()


class TestSight:
    async def test_ready_is_only_what_has_a_worker_that_is_ready(self) -> None:
        registry = Registry(
            row("good", "good/r1", "UNLOADING", "READY"),
            row("starting", "starting/r1", "UNLOADING"),
            row("idle", "idle/r1"),
        )
        async with driving(MultiModelServer, registry) as driver:
            observation = await driver.observe([])
        assert observation.states == {"good": ServerState.READY, "starting": ServerState.LOADING}

    async def test_workers_that_never_come_up_are_absence_in_the_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        registry = Registry(row("m", "m/r1", "UNLOADING"))
        async with driving(MultiModelServer, registry) as driver:
            assert (await driver.observe([])).states == {"m": ServerState.LOADING}
            monkeypatch.setattr(management, "_STARTING_S", 0.0)
            assert (await driver.observe([])).states == {}

    @pytest.mark.parametrize(
        ("kind", "ours", "foreign"),
        [
            (MultiModelServer, "m/r1", "archive.mar"),
            (TorchServe, "/models/m/r1", "/elsewhere/m/r1"),
        ],
    )
    async def test_the_address_of_the_files_proves_the_revision(
        self, kind: type[ManagementServer], ours: str, foreign: str
    ) -> None:
        registry = Registry(row("m", ours, "READY"), row("n", foreign, "READY"))
        async with driving(kind, registry) as driver:
            observation = await driver.observe([])
        assert observation.revisions == {"m": "r1", "n": ""}

    async def test_hundreds_of_models_are_not_asked_one_by_one_at_every_look(self) -> None:
        names = [f"m{number}" for number in range(250)]
        registry = Registry(*(row(name, f"{name}/r1", "READY") for name in names))
        async with driving(MultiModelServer, registry) as driver:
            assert len((await driver.observe(names)).states) == 250
            registry.asked.clear()
            for _ in range(20):
                assert len((await driver.observe(names)).states) == 250
        asked = [line.rpartition("/")[2] for line in registry.asked if "/models/" in line]
        assert len(asked) <= 20 * 16
        assert set(asked) == set(names), "each of them by turns"

    async def test_a_model_that_the_turning_of_pages_hid_is_asked_for(self) -> None:
        registry = Registry(*(row(f"m{n}", f"m{n}/r1", "READY") for n in range(101)))

        async def handler(request: web.Request) -> web.Response:
            if request.query.get("next_page_token"):
                return web.json_response({"models": []})
            return await registry(request)

        async with driving(MultiModelServer, handler) as driver:
            assert "m100" in (await driver.observe(["m100"])).states

    async def test_the_trial_of_a_killed_puller_is_no_model(self) -> None:
        async with driving(MultiModelServer, Registry(row("m..probe", "m/r2", "READY"))) as driver:
            assert (await driver.observe(["m"])).states == {}

    @pytest.mark.parametrize("status", [400, 403, 404, 500, 503])
    async def test_p2_a_list_that_is_refused_is_doubt(self, status: int) -> None:
        async def handler(_: web.Request) -> web.Response:
            return web.Response(status=status)

        async with driving(TorchServe, handler) as driver:
            with pytest.raises(ServerInDoubt):
                await driver.observe([])

    @pytest.mark.parametrize(
        "body", ["", "{", "[]", "{}", "null", '{"models": 1}', '{"models": [{"modelName": "m"}]}']
    )
    async def test_p2_a_list_that_makes_no_sense_is_doubt(self, body: str) -> None:
        async def handler(_: web.Request) -> web.Response:
            return web.Response(text=body)

        async with driving(TorchServe, handler) as driver:
            with pytest.raises(ServerInDoubt):
                await driver.observe([])

    @pytest.mark.parametrize("body", ["", "{}", "[1]", '{"modelUrl": "m/r", "workers": null}'])
    async def test_p2_workers_that_make_no_sense_are_doubt(self, body: str) -> None:
        async def handler(request: web.Request) -> web.Response:
            if request.path == "/models":
                return web.json_response({"models": [row("m", "m/r")]})
            return web.Response(text=body)

        async with driving(MultiModelServer, handler) as driver:
            with pytest.raises(ServerInDoubt):
                await driver.observe([])

    async def test_nobody_listening_is_not_doubt_but_absence(self) -> None:
        driver = MultiModelServer(server_settings("http://127.0.0.1:1"))
        with pytest.raises(ServerGone):
            await driver.observe([])
        await driver.close()


class TestLoads:
    async def test_a_load_without_an_answer_is_watched_and_never_sent_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(TorchServe, "call_timeout_s", 0.2)
        registry = Registry()

        async def handler(request: web.Request) -> web.Response:
            if request.method == "POST":
                registry.asked.append("POST")
                registry.rows["m"] = row("m", "/models/m/r", "UNLOADING")
                await asyncio.sleep(5)
            if len(registry.asked) > 6 and registry.rows:
                registry.rows["m"] = row("m", "/models/m/r", "READY")
            return await registry(request)

        async with driving(TorchServe, handler) as driver:
            await driver.load(target())
        assert registry.asked.count("POST") == 1

    async def test_a_registration_that_was_taken_back_has_failed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(TorchServe, "call_timeout_s", 0.2)

        async def handler(request: web.Request) -> web.Response:
            if request.method == "POST":
                await asyncio.sleep(5)
            return web.Response(status=404)

        async with driving(TorchServe, handler) as driver:
            with pytest.raises(ServerFault, match="removed the registration") as caught:
                await driver.load(target())
        assert caught.value.reason == "LoadFailed"

    async def test_workers_that_do_not_come_up_in_time_are_a_timeout(self) -> None:
        registry = Registry()

        async def handler(request: web.Request) -> web.Response:
            if request.method == "POST":
                registry.rows["m"] = row("m", "/models/m/r", "UNLOADING")
                await asyncio.sleep(30)
            return await registry(request)

        async with driving(TorchServe, handler, action_timeout_s=0.5) as driver:
            with pytest.raises(ServerFault, match="no worker is ready") as caught:
                await driver.load(target())
        assert caught.value.reason == "LoadTimeout"

    async def test_mms_is_not_believed_that_a_worker_is_ready_while_the_call_is_unanswered(
        self,
    ) -> None:
        registry = Registry()

        async def handler(request: web.Request) -> web.Response:
            if request.method == "POST":
                registry.rows["m"] = row("m", "m/r", "READY")
                await asyncio.sleep(30)
            return await registry(request)

        async with driving(MultiModelServer, handler, action_timeout_s=0.2) as driver:
            with pytest.raises(ServerFault, match="does not report whether") as caught:
                await driver.load(target())
        assert caught.value.reason == "LoadTimeout"

    async def test_mms_tries_files_whose_registration_nobody_saw_succeed(self) -> None:
        registry = Registry(row("m", "m/r", "READY"))

        async def handler(request: web.Request) -> web.Response:
            name = request.query.get("model_name", request.path.rpartition("/")[2])
            if request.method == "POST":
                registry.asked.append(f"POST {name}")
                registry.rows[name] = row(name, "m/r", "READY")
                return web.Response()
            if request.method == "DELETE":
                registry.asked.append(f"DELETE {name}")
                is_there = registry.rows.pop(name, None) is not None
                return web.Response(status=200 if is_there else 404)
            return await registry(request)

        async with driving(MultiModelServer, handler) as driver:
            for _ in range(2):
                await driver.load(target())
        assert registry.asked.count("POST m..probe") == 1, "proven once is enough"
        assert "m..probe" not in registry.rows
        assert not {"POST m", "DELETE m"} & set(registry.asked), "what serves is left alone"

    async def test_a_200_to_a_load_is_not_believed_without_a_worker(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(management, "_SAYS_SO_S", 0.2)
        registry = Registry()

        async def handler(request: web.Request) -> web.Response:
            if request.method == "POST":
                registry.rows["m"] = row("m", "m/r")
                return web.Response()
            return await registry(request)

        async with driving(MultiModelServer, handler) as driver:
            with pytest.raises(ServerFault, match="200 for the load but has no ready worker"):
                await driver.load(target())

    async def test_a_server_that_dies_of_a_model_counts_as_a_failed_load(self) -> None:
        async def handler(request: web.Request) -> web.Response:
            if request.method == "POST":
                assert request.transport is not None
                request.transport.close()
            return web.Response(status=404)

        async with driving(TorchServe, handler) as driver:
            with pytest.raises(ServerFault, match="during the load"):
                await driver.load(target())

    async def test_p2_a_silent_server_is_doubt_not_a_failure(self) -> None:
        async def handler(request: web.Request) -> web.Response:
            assert request.transport is not None
            request.transport.close()
            return web.Response()

        async with driving(TorchServe, handler) as driver:
            with pytest.raises(ServerHungUp):
                await driver.observe([])

    async def test_an_entry_may_tune_its_registration_but_not_redirect_it(self) -> None:
        registry = Registry()
        asked: dict[str, str] = {}

        async def handler(request: web.Request) -> web.Response:
            if request.method == "POST":
                asked.update(request.query)
                registry.rows["m"] = row("m", "m/r", "READY")
                return web.Response()
            return await registry(request)

        parameters = {"batch_size": "8", "url": "evil", "model_name": "x", "synchronous": "false"}
        wanted = target()
        tuned = type(wanted)(
            wanted.name, wanted.revision, wanted.path, entry(name="m", parameters=parameters)
        )
        async with driving(MultiModelServer, handler) as driver:
            await driver.load(tuned)
        assert asked == {
            "url": "m/r",
            "model_name": "m",
            "synchronous": "true",
            "initial_workers": "1",
            "batch_size": "8",
        }

    async def test_what_already_serves_is_not_registered_again(self) -> None:
        registry = Registry(row("m", "/models/m/r", "READY"))
        async with driving(TorchServe, registry) as driver:
            await driver.load(target())
        assert not [line for line in registry.asked if line.startswith("POST")]


def test_each_revision_has_a_folder_of_its_own() -> None:
    driver = TorchServe(server_settings())
    assert driver.layout is Layout.PER_REVISION
    assert driver.folder_name("abc") == "abc"
