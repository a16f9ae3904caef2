"""LoRA adapters on stand-ins of vLLM and SGLang: what is proven, refused, restored, cleaned up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from puller.standins import StandInSGLang, StandInVLLM, running, write_adapter
from trainedmodel_contract.entry import Entry
from trainedmodel_puller.core.state import Layout, ServerState
from trainedmodel_puller.drivers.base import ServerGone, ServerInDoubt, ServerSettings, Target
from trainedmodel_puller.drivers.lora import AdapterServer
from trainedmodel_puller.drivers.sglang import SGLang
from trainedmodel_puller.drivers.vllm import VLLM, names_in_use
from trainedmodel_puller.errors import ServerFault


def entry(**parameters: str) -> Entry:
    return Entry(name="a", storage_uri="s3://b/x", revision="r", parameters=parameters or None)


class Bench:
    """A stand-in, a driver that speaks to it, and adapters on disk."""

    def __init__(self, server: StandInVLLM, driver: AdapterServer, models: Path) -> None:
        self.server = server
        self.driver = driver
        self.models = models

    def target(self, name: str, revision: str, weights: str = "fine", rank: int = 8) -> Target:
        path = write_adapter(self.models / name / revision, weights=weights, rank=rank)
        return Target(name, revision, path, entry())

    def told(self, call: str, name: str) -> asyncio.Event:
        """Return what is set when the server gets a call for a name."""
        event = asyncio.Event()

        def note(got: str, of: str) -> None:
            if (got, of) == (call, name):
                event.set()

        self.server.before = note
        return event

    def root(self, name: str, revision: str) -> str:
        return str(self.models / name / revision)


@pytest.fixture(params=["vllm", "sglang"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    server: StandInVLLM = StandInVLLM() if request.param == "vllm" else StandInSGLang()
    async with running(server.application()) as url:
        settings = ServerSettings(url, tmp_path, tmp_path, action_timeout_s=5)
        driver = VLLM(settings) if request.param == "vllm" else SGLang(settings)
        yield Bench(server, driver, tmp_path)
        await driver.close()


@pytest.fixture
async def vllm(tmp_path: Path) -> AsyncIterator[Bench]:
    server = StandInVLLM()
    async with running(server.application()) as url:
        driver = VLLM(ServerSettings(url, tmp_path, tmp_path, action_timeout_s=1.5))
        yield Bench(server, driver, tmp_path)
        await driver.close()


class TestFiles:
    def test_an_adapter_is_taken_as_it_is(self, tmp_path: Path) -> None:
        write_adapter(tmp_path)
        before = sorted(path.name for path in tmp_path.iterdir())
        driver = VLLM(ServerSettings("http://x", tmp_path, tmp_path))
        driver.prepare(tmp_path, entry())
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        assert driver.layout is Layout.PER_REVISION

    @pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
    def test_what_is_no_adapter_is_refused_with_the_names_of_its_files(
        self, tmp_path: Path, missing: str
    ) -> None:
        (write_adapter(tmp_path) / missing).unlink()
        with pytest.raises(ServerFault, match=r"adapter_config\.json and adapter_model") as caught:
            VLLM(ServerSettings("http://x", tmp_path, tmp_path)).prepare(tmp_path, entry())
        assert caught.value.reason == "InvalidLayout"

    def test_a_configuration_that_is_no_json_is_named(self, tmp_path: Path) -> None:
        (write_adapter(tmp_path) / "adapter_config.json").write_text("{")
        with pytest.raises(ServerFault, match="is not JSON"):
            VLLM(ServerSettings("http://x", tmp_path, tmp_path)).prepare(tmp_path, entry())


class TestLoad:
    async def test_an_adapter_comes_changes_and_goes(self, bench: Bench) -> None:
        for revision in ("r1", "r2", "r1"):
            await bench.driver.load(bench.target("a", revision))
            assert bench.server.adapters == {"a": bench.root("a", revision)}
            observation = await bench.driver.observe([])
            assert observation.states == {"a": ServerState.READY}
            assert observation.revisions == {"a": revision}
        await bench.driver.unload("a")
        assert bench.server.adapters == {}
        assert (await bench.driver.observe(["a"])).states == {}

    async def test_an_update_is_proven_before_the_old_one_goes(self, bench: Bench) -> None:
        await bench.driver.load(bench.target("a", "r1"))
        bench.server.calls.clear()
        await bench.driver.load(bench.target("a", "r2"))
        calls = bench.server.calls
        probe = calls[0][1]
        assert probe.startswith("a..probe-")
        assert calls == [("load", probe), ("unload", "a"), ("load", "a"), ("unload", probe)]

    @pytest.mark.parametrize("how", [{"weights": "broken"}, {"rank": 32}])
    async def test_p5_a_broken_update_leaves_the_old_one_untouched(
        self, bench: Bench, how: dict[str, str]
    ) -> None:
        await bench.driver.load(bench.target("a", "r1"))
        bench.server.calls.clear()
        with pytest.raises(ServerFault, match=r"deserializing header|max_lora_rank") as caught:
            await bench.driver.load(bench.target("a", "r2", **how))  # type: ignore[arg-type]
        assert caught.value.reason == "LoadFailed"
        assert bench.server.adapters == {"a": bench.root("a", "r1")}
        assert ("unload", "a") not in bench.server.calls

    async def test_p5_the_old_one_comes_back_if_the_new_one_fails_after_its_trial(
        self, bench: Bench
    ) -> None:
        await bench.driver.load(bench.target("a", "r1"))
        refused: list[str] = []

        def refuse_once(call: str, name: str) -> web.Response | None:
            if (call, name) == ("load", "a") and not refused:
                refused.append(name)
                return web.json_response({"error": {"message": "out of memory"}}, status=500)
            return None

        bench.server.before = refuse_once
        with pytest.raises(ServerFault, match="out of memory"):
            await bench.driver.load(bench.target("a", "r2"))
        assert bench.server.adapters == {"a": bench.root("a", "r1")}

    async def test_a_load_of_what_is_loaded_asks_for_nothing(self, bench: Bench) -> None:
        await bench.driver.load(bench.target("a", "r1"))
        bench.server.calls.clear()
        await bench.driver.load(bench.target("a", "r1"))
        assert bench.server.calls == []

    async def test_two_names_load_at_once(self, bench: Bench) -> None:
        await asyncio.gather(
            *(bench.driver.load(bench.target(name, "r1")) for name in ("a", "b", "c"))
        )
        assert set(bench.server.adapters) == {"a", "b", "c"}

    async def test_the_base_models_name_is_refused(self, bench: Bench) -> None:
        with pytest.raises(ServerFault, match=r"base model.*spec\.model\.name"):
            await bench.driver.load(bench.target("base", "r1"))
        assert bench.server.calls == []

    async def test_a_200_is_not_believed_if_the_list_lacks_it(self, bench: Bench) -> None:
        bench.server.before = lambda call, _: web.Response() if call == "load" else None
        with pytest.raises(ServerFault, match=r"refused the load|does not list"):
            await bench.driver.load(bench.target("a", "r1"))

    async def test_a_server_without_the_calls_says_how_it_must_run(self, vllm: Bench) -> None:
        vllm.server.has_lora = False
        with pytest.raises(ServerFault, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
            await vllm.driver.load(vllm.target("a", "r1"))

    async def test_a_folder_that_the_server_does_not_see_is_named(self, vllm: Bench) -> None:
        target = Target("a", "r1", vllm.models / "a" / "r1", entry())
        with pytest.raises(ServerFault, match=r"looked in .*a/r1.*--server-model-dir"):
            await vllm.driver.load(target)

    async def test_a_load_that_got_no_answer_is_watched_not_repeated(
        self, vllm: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trainedmodel_puller.drivers.lora._CALL_TIMEOUT_S", 0.05)
        application = vllm.server.application()
        answered = asyncio.Event()

        @web.middleware
        async def late(request: web.Request, handler: object) -> web.StreamResponse:
            answer: web.StreamResponse = await handler(request)  # type: ignore[operator]
            if request.path.endswith("/load_lora_adapter"):
                await asyncio.wait_for(answered.wait(), 10)
            return answer

        application.middlewares.append(late)
        async with running(application) as url:
            driver = VLLM(ServerSettings(url, vllm.models, vllm.models, action_timeout_s=10))
            await driver.load(vllm.target("a", "r1"))
            assert vllm.server.calls == [("load", "a")]
            answered.set()
            await driver.close()

    async def test_parameters_go_into_the_call_but_never_the_name_or_in_place(
        self, vllm: Bench
    ) -> None:
        seen: list[object] = []
        app = web.Application()

        async def load(request: web.Request) -> web.Response:
            seen.append(await request.json())
            return web.Response(status=500)

        async def models(_: web.Request) -> web.Response:
            return web.json_response({"data": [{"id": "base", "parent": None, "root": "x"}]})

        app.router.add_post("/v1/load_lora_adapter", load)
        app.router.add_get("/v1/models", models)
        own = entry(base_model_name="b", load_inplace="true", lora_name="evil", lora_path="/etc")
        async with running(app) as url:
            driver = VLLM(ServerSettings(url, vllm.models, vllm.models))
            with pytest.raises(ServerFault):
                await driver.load(Target("a", "r1", Path("/models/a/r1"), own))
            await driver.close()
        assert seen == [{"base_model_name": "b", "lora_name": "a", "lora_path": "/models/a/r1"}]

    async def test_a_stop_in_the_middle_of_a_swap_ends_the_swap_first(self, vllm: Bench) -> None:
        await vllm.driver.load(vllm.target("a", "r1"))
        swapping = vllm.told("unload", "a")
        loading = asyncio.ensure_future(vllm.driver.load(vllm.target("a", "r2")))
        await swapping.wait()
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert vllm.server.adapters == {"a": vllm.root("a", "r2")}


class TestForeign:
    async def test_adapters_of_others_are_reported_and_left_alone(self, bench: Bench) -> None:
        bench.server.adapters["given"] = "/adapters/given"
        observation = await bench.driver.observe([])
        assert observation.states == {"given": ServerState.READY}
        assert observation.revisions == {"given": ""}
        with pytest.raises(ServerFault, match=r"from /adapters/given.*unload that adapter"):
            await bench.driver.load(bench.target("given", "r1"))
        await bench.driver.unload("given")
        assert bench.server.adapters == {"given": "/adapters/given"}

    async def test_a_name_of_another_model_below_the_folder_is_foreign_too(
        self, bench: Bench
    ) -> None:
        bench.server.adapters["a"] = bench.root("b", "r1")
        assert (await bench.driver.observe([])).revisions == {"a": ""}


class TestProbes:
    async def test_a_killed_pullers_trial_is_taken_away_by_the_first_look(
        self, bench: Bench
    ) -> None:
        bench.server.adapters["a..probe-12345678"] = bench.root("a", "r2")
        assert (await bench.driver.observe([])).states == {}
        assert bench.server.adapters == {}

    async def test_it_is_gone_before_an_unload_is_done(self, bench: Bench) -> None:
        bench.server.adapters["a..probe-12345678"] = bench.root("a", "r2")
        await bench.driver.unload("a")
        assert bench.server.adapters == {}

    async def test_one_that_stays_is_doubt_so_that_nothing_is_deleted(self, bench: Bench) -> None:
        bench.server.adapters["a..probe-12345678"] = bench.root("a", "r2")
        bench.server.before = lambda _call, _name: web.json_response(
            {"error": {"message": "no"}}, status=500
        )
        with pytest.raises(ServerInDoubt, match=r"left-over probe of a cannot be removed.*: no$"):
            await bench.driver.observe([])

    async def test_the_trial_of_a_load_under_way_is_not_taken_for_a_leftover(
        self, vllm: Bench
    ) -> None:
        await vllm.driver.load(vllm.target("a", "r1"))
        swapping = vllm.told("unload", "a")
        loading = asyncio.ensure_future(vllm.driver.load(vllm.target("a", "r2")))
        await swapping.wait()
        observation = await vllm.driver.observe([])
        await loading
        assert set(observation.states) <= {"a"}
        probe_calls = [call for call, name in vllm.server.calls if "..probe-" in name]
        assert probe_calls == ["load", "unload"]

    async def test_a_strangers_look_alike_is_left_alone(self, bench: Bench) -> None:
        bench.server.adapters["x..probe-12345678"] = "/elsewhere/x/r1"
        await bench.driver.observe([])
        assert "x..probe-12345678" in bench.server.adapters


class TestUnload:
    async def test_what_is_not_there_is_done(self, bench: Bench) -> None:
        await bench.driver.unload("never")

    async def test_one_that_is_refused_is_told(self, bench: Bench) -> None:
        await bench.driver.load(bench.target("a", "r1"))
        bench.server.before = lambda _call, _name: web.json_response(
            {"error": {"message": "busy"}}, status=500
        )
        with pytest.raises(ServerFault, match="busy") as caught:
            await bench.driver.unload("a")
        assert caught.value.reason == "UnloadFailed"

    async def test_p3_it_is_done_when_no_request_needs_the_files(self, vllm: Bench) -> None:
        await vllm.driver.load(vllm.target("a", "r1"))
        vllm.server.metrics = info("a,b", "", 2) + info("", "", 1)
        with pytest.raises(ServerFault, match="requests for it still run"):
            await vllm.driver.unload("a")
        vllm.server.metrics += info("b", "", 3)
        await vllm.driver.unload("a")


def info(running_: str, waiting: str, at: float) -> str:
    labels = f'running_lora_adapters="{running_}",waiting_lora_adapters="{waiting}"'
    return f'vllm:lora_requests_info{{max_lora="2",{labels}}} {at}\n'


class TestNamesInUse:
    def test_the_newest_series_says_who_runs_and_who_waits(self) -> None:
        metrics = info("old", "", 1.5e9) + info("a,b", "c", 1.6e9) + info("", "", 1.4e9)
        assert names_in_use(metrics) == {"a", "b", "c"}

    @pytest.mark.parametrize("metrics", ["", "other 1\n", info("", "", 5)])
    def test_nobody_is_nobody(self, metrics: str) -> None:
        assert names_in_use(metrics) == frozenset()


class TestDoubt:
    @pytest.mark.parametrize("body", ["", "{", "[]", '{"data":[{"parent":"x"}]}', '{"data":3}'])
    async def test_p2_a_list_that_makes_no_sense_is_doubt(self, body: str, tmp_path: Path) -> None:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(text=body)

        app = web.Application()
        app.router.add_get("/{tail:.*}", answer)
        async with running(app) as url:
            driver = SGLang(ServerSettings(url, tmp_path, tmp_path))
            with pytest.raises(ServerInDoubt):
                await driver.observe([])
            await driver.close()

    async def test_nobody_listening_is_absence(self, tmp_path: Path) -> None:
        driver = VLLM(ServerSettings("http://127.0.0.1:1", tmp_path, tmp_path))
        with pytest.raises(ServerGone):
            await driver.observe([])
        await driver.close()


class TestRoomInSGLang:
    async def test_a_load_that_would_push_another_out_is_refused(self, tmp_path: Path) -> None:
        server = StandInSGLang()
        server.max_loaded = 1
        async with running(server.application()) as url:
            driver = SGLang(ServerSettings(url, tmp_path, tmp_path))
            bench = Bench(server, driver, tmp_path)
            await driver.load(bench.target("a", "r1"))
            with pytest.raises(ServerFault, match="--max-loaded-loras"):
                await driver.load(bench.target("b", "r1"))
            # without room for a trial an update still goes, and a broken one is taken back
            await driver.load(bench.target("a", "r2"))
            with pytest.raises(ServerFault, match="deserializing"):
                await driver.load(bench.target("a", "r3", weights="broken"))
            assert server.adapters == {"a": bench.root("a", "r2")}
            await driver.close()
