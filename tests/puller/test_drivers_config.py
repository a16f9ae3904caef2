"""Servers with one configuration file, on stand-ins: what is written, kept, withdrawn, believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web
from blockbuster import blockbuster_ctx
from puller.standins import StandInOvms, StandInTfs, running
from trainedmodel_contract.entry import Entry
from trainedmodel_puller.core.state import ServerState
from trainedmodel_puller.drivers.base import (
    ServerGone,
    ServerInDoubt,
    ServerSettings,
    Target,
)
from trainedmodel_puller.drivers.model_config import ConfigServer
from trainedmodel_puller.drivers.ovms import OpenVinoModelServer
from trainedmodel_puller.drivers.tfs import TensorFlowServing
from trainedmodel_puller.errors import ServerFault, SettingsError, VolumeFault
from trainedmodel_puller.volume.identity import IDENTITY_FILE

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ENTRY = Entry(name="m", storage_uri="s3://b/x", revision="r")


class Bench:
    """A stand-in, a driver that speaks to it, and version folders on disk."""

    def __init__(self, server: StandInTfs, url: str, models: Path, *, timeout_s: float) -> None:
        self.server = server
        self.models = models
        self.settings = ServerSettings(url, models, models, timeout_s)
        self.is_tfs = not isinstance(server, StandInOvms)
        self.driver = self.make()

    def make(self) -> ConfigServer:
        """Make a driver, as a puller that starts anew does."""
        made: ConfigServer = (
            TensorFlowServing(self.settings) if self.is_tfs else OpenVinoModelServer(self.settings)
        )
        made.notice_s = min(made.notice_s, 0.3)  # the stand-in reads its file every 20 ms
        return made

    def version(self, revision: str) -> int:
        return int(self.driver.folder_name(revision))

    def target(self, name: str, revision: str, *, broken: bool = False) -> Target:
        path = self.models / name / self.driver.folder_name(revision)
        path.mkdir(parents=True, exist_ok=True)
        (path / IDENTITY_FILE).write_text(json.dumps({"revision": revision}))
        (path / "broken").unlink(missing_ok=True)
        if broken:
            (path / "broken").touch()
        return Target(name, revision, path, ENTRY)

    def asked(self) -> dict[str, tuple[int, ...]]:
        rows = self.driver.format.rows(self.server.config.read_text())
        return {name: row.versions for name, row in rows.items()}

    def serving(self, name: str) -> set[int]:
        statuses = self.server.versions.get(name, {})
        return {version for version, one in statuses.items() if one["state"] == "AVAILABLE"}


async def benches(kind: str, models: Path, timeout_s: float) -> AsyncIterator[Bench]:
    made = StandInTfs if kind == "tfs" else StandInOvms
    server = made(models / ("models.config" if kind == "tfs" else "config.json"))
    async with running(server.application()) as url:
        bench = Bench(server, url, models, timeout_s=timeout_s)
        await bench.driver.observe([])
        yield bench
        await bench.driver.close()


@pytest.fixture(params=["tfs", "ovms"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async for made in benches(request.param, tmp_path, 15):
        yield made


@pytest.fixture
async def tfs(tmp_path: Path) -> AsyncIterator[Bench]:
    async for made in benches("tfs", tmp_path, 1):
        yield made


class TestLoad:
    async def test_a_model_comes_changes_and_goes(self, bench: Bench) -> None:
        for revision in ("r1", "r2", "r1"):
            await bench.driver.load(bench.target("m", revision))
            assert bench.serving("m") == {bench.version(revision)}
            assert bench.asked() == {"m": (bench.version(revision),)}
            observation = await bench.driver.observe(["m"])
            assert observation.states == {"m": ServerState.READY}
            assert observation.revisions == {"m": revision}
        await bench.driver.unload("m")
        assert bench.serving("m") == set()
        assert bench.asked() == {}
        assert (await bench.driver.observe(["m"])).states == {}

    async def test_p5_an_update_asks_for_both_until_the_new_one_serves(self, bench: Bench) -> None:
        one, two = bench.version("r1"), bench.version("r2")
        await bench.driver.load(bench.target("m", "r1"))
        bench.server.history.clear()
        await bench.driver.load(bench.target("m", "r2"))
        asked = [rows["m"] for rows in bench.server.history if rows != {"m": (one,)}]
        assert asked == [(one, two), (two,)]

    async def test_p5_a_broken_update_is_taken_out_again(self, bench: Bench) -> None:
        await bench.driver.load(bench.target("m", "r1"))
        with pytest.raises(ServerFault, match="could not load it") as caught:
            await bench.driver.load(bench.target("m", "r2", broken=True))
        assert caught.value.reason == "LoadFailed"
        if bench.is_tfs:
            assert "Can't parse saved_model.pb" in caught.value.message
        assert bench.asked() == {"m": (bench.version("r1"),)}
        assert bench.serving("m") == {bench.version("r1")}
        assert (await bench.driver.observe(["m"])).revisions == {"m": "r1"}

    async def test_a_broken_first_revision_leaves_no_row(self, bench: Bench) -> None:
        with pytest.raises(ServerFault):
            await bench.driver.load(bench.target("m", "r1", broken=True))
        assert bench.asked() == {}

    async def test_a_mended_revision_is_not_refused_for_its_old_failure(self, bench: Bench) -> None:
        with pytest.raises(ServerFault):
            await bench.driver.load(bench.target("m", "r1", broken=True))
        await bench.driver.load(bench.target("m", "r1"))
        assert bench.serving("m") == {bench.version("r1")}

    async def test_many_models_load_at_once_and_none_is_lost(self, bench: Bench) -> None:
        names = [f"m{number}" for number in range(20)]
        await asyncio.gather(*(bench.driver.load(bench.target(name, "r1")) for name in names))
        assert set(bench.asked()) == set(names)
        await asyncio.gather(*(bench.driver.unload(name) for name in names[:10]))
        assert set(bench.asked()) == set(names[10:])

    async def test_a_model_that_does_not_come_up_in_time_is_taken_out(self, tfs: Bench) -> None:
        tfs.server.is_stuck = True
        with pytest.raises(ServerFault, match="reports LOADING") as caught:
            await tfs.driver.load(tfs.target("m", "r1"))
        assert caught.value.reason == "LoadTimeout"
        assert tfs.asked() == {}

    async def test_a_server_that_does_not_read_the_file_is_told_how_to(self, tfs: Bench) -> None:
        tfs.server.is_reading = False
        with pytest.raises(ServerFault, match="--model_config_file_poll_wait_seconds=1"):
            await tfs.driver.load(tfs.target("m", "r1"))

    async def test_a_server_that_dies_of_a_model_does_not_find_it_again(
        self, tmp_path: Path
    ) -> None:
        server = StandInTfs(tmp_path / "models.config")
        server.is_stuck = True
        async with running(server.application()) as url:
            bench = Bench(server, url, tmp_path, timeout_s=10)
            await bench.driver.observe([])
            loading = asyncio.ensure_future(bench.driver.load(bench.target("m", "r1")))
            async with asyncio.timeout(10):
                while "m" not in server.versions:  # noqa: ASYNC110 - set by the stand-in's task
                    await asyncio.sleep(0.01)
        with pytest.raises(ServerFault, match="during the load") as caught:
            await loading
        assert caught.value.reason == "LoadFailed"
        assert bench.asked() == {}
        await bench.driver.close()

    async def test_p8_nothing_blocks_the_event_loop(self, bench: Bench) -> None:
        targets = [bench.target("m", "r1"), bench.target("m", "r2")]
        with blockbuster_ctx("trainedmodel_puller"):
            for target in targets:
                await bench.driver.load(target)
                await bench.driver.observe(["m"])
            await bench.driver.unload("m")

    async def test_a_load_that_is_stopped_leaves_what_was_there(self, tfs: Bench) -> None:
        await tfs.driver.load(tfs.target("m", "r1"))
        tfs.server.is_stuck = True
        loading = asyncio.ensure_future(tfs.driver.load(tfs.target("m", "r2")))
        async with asyncio.timeout(10):
            while len(tfs.asked()["m"]) < 2:  # noqa: ASYNC110 - a file, not a task
                await asyncio.sleep(0.01)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert tfs.asked() == {"m": (tfs.version("r1"),)}

    async def test_ovms_that_dies_while_it_reads_has_failed_the_model(self, tmp_path: Path) -> None:
        server = StandInOvms(tmp_path / "config.json")
        application = server.application()

        @web.middleware
        async def die(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path.endswith("/reload"):
                assert request.transport is not None
                request.transport.close()
            return await handler(request)

        application.middlewares.append(die)
        async with running(application) as url:
            bench = Bench(server, url, tmp_path, timeout_s=5)
            await bench.driver.observe([])
            with pytest.raises(ServerFault, match="during the load") as caught:
                await bench.driver.load(bench.target("m", "r1"))
            assert caught.value.reason == "LoadFailed"
            assert bench.asked() == {}
            await bench.driver.close()

    async def test_an_unload_of_what_is_not_there_is_done(self, bench: Bench) -> None:
        await bench.driver.unload("never")

    async def test_an_unload_that_the_server_ignores_is_told(self, tfs: Bench) -> None:
        await tfs.driver.load(tfs.target("m", "r1"))
        tfs.server.is_reading = False
        with pytest.raises(ServerFault, match="still has it") as caught:
            await tfs.driver.unload("m")
        assert caught.value.reason == "UnloadFailed"

    async def test_ovms_is_told_to_read_and_its_complaint_is_passed_on(
        self, tmp_path: Path
    ) -> None:
        async for bench in benches("ovms", tmp_path, 1):
            target = bench.target("m", "r1")
            await bench.driver.load(target)
            assert isinstance(bench.server, StandInOvms)
            assert bench.server.reloads == 2
            bench.target("x", "r1", broken=True)
            missing = Target("gone", "r1", tmp_path / "gone" / "1", ENTRY)
            with pytest.raises(ServerFault):
                await bench.driver.load(bench.target("x", "r1", broken=True))
            with pytest.raises(ServerFault, match=r"refused|does not know"):
                await bench.driver.load(missing)


class TestRestart:
    async def test_a_restarted_puller_reads_back_what_it_had_asked_for(self, bench: Bench) -> None:
        await bench.driver.load(bench.target("m", "r1"))
        anew = bench.make()
        assert (await anew.observe([])).revisions == {"m": "r1"}
        await anew.load(bench.target("n", "r1"))
        assert set(bench.asked()) == {"m", "n"}
        await anew.close()

    async def test_an_update_that_a_kill_cut_off_is_gone_on_with(self, bench: Bench) -> None:
        one, two = bench.version("r1"), bench.version("r2")
        await bench.driver.load(bench.target("m", "r1"))
        text = bench.server.config.read_text()
        base = str(bench.models / "m")
        bench.server.config.write_text(bench.driver.format.edit(text, "m", base, (one, two)))
        anew = bench.make()
        # neither revision is told, so that whichever is wanted is asked for
        assert (await anew.observe(["m"])).revisions == {"m": ""}
        await anew.load(bench.target("m", "r2"))
        assert bench.asked() == {"m": (two,)}
        await anew.close()

    async def test_p1_a_file_that_is_gone_is_written_back(self, bench: Bench) -> None:
        await bench.driver.load(bench.target("m", "r1"))
        config = bench.server.config
        for ruin in (config.unlink, partial(config.write_text, "")):
            ruin()
            await bench.driver.observe(["m"])
            assert bench.asked() == {"m": (bench.version("r1"),)}
            ruin()
            await bench.driver.load(bench.target("n", "r1"))
            assert set(bench.asked()) == {"m", "n"}
            await bench.driver.unload("n")

    async def test_p1_one_that_is_gone_after_a_restart_is_made_of_what_serves(
        self, bench: Bench
    ) -> None:
        await bench.driver.load(bench.target("m", "r1"))
        await bench.driver.load(bench.target("gone", "r1"))
        bench.server.is_reading = False
        bench.server.config.unlink()
        anew = bench.make()
        assert (await anew.observe(["m", "never"])).revisions == {"m": "r1"}
        assert bench.asked() == {"m": (bench.version("r1"),)}
        await anew.close()

    async def test_a_server_that_is_down_finds_a_file_to_start_with(self, tmp_path: Path) -> None:
        driver = TensorFlowServing(ServerSettings("http://127.0.0.1:1", tmp_path, tmp_path))
        with pytest.raises(ServerGone):
            await driver.observe([])
        assert (tmp_path / "models.config").read_text() == "model_config_list {\n}\n"
        await driver.close()


class TestForeign:
    async def test_rows_of_others_are_kept_and_their_names_refused(self, bench: Bench) -> None:
        text = bench.driver.format.edit(bench.driver.format.empty, "theirs", "/theirs", (7,))
        bench.server.config.write_text(text)
        await bench.driver.load(bench.target("m", "r1"))
        await bench.driver.unload("theirs")
        assert bench.asked()["theirs"] == (7,)
        with pytest.raises(ServerFault, match=r"from /theirs.*remove it or"):
            await bench.driver.load(bench.target("theirs", "r1"))
        await bench.driver.unload("m")
        assert bench.server.config.read_text() == text

    @pytest.mark.parametrize("text", ["model_config_list {", "}", "[", '{"a": 1}', "\x00"])
    def test_p1_a_file_that_cannot_be_read_stops_the_start_and_stays(
        self, text: str, tmp_path: Path
    ) -> None:
        for driver, name in (
            (TensorFlowServing, "models.config"),
            (OpenVinoModelServer, "config.json"),
        ):
            (tmp_path / name).write_text(text)
            with pytest.raises(SettingsError, match=r"--server-config .*repair or remove the file"):
                driver(ServerSettings("http://x", tmp_path, tmp_path))
            assert (tmp_path / name).read_text() == text

    async def test_p1_a_file_that_somebody_broke_meanwhile_is_doubt_and_stays(
        self, bench: Bench
    ) -> None:
        bench.server.is_reading = False
        bench.server.config.write_text("{ {")
        with pytest.raises(ServerInDoubt, match="repair the file"):
            await bench.driver.observe([])
        with pytest.raises(ServerInDoubt):
            await bench.driver.load(bench.target("m", "r1"))
        with pytest.raises(ServerInDoubt):
            await bench.driver.unload("m")
        assert bench.server.config.read_text() == "{ {"

    async def test_another_file_can_be_named(self, tmp_path: Path) -> None:
        config = tmp_path / "elsewhere" / "own.config"
        config.parent.mkdir()
        settings = ServerSettings(
            "http://127.0.0.1:1", tmp_path, Path("/served"), config_file=config
        )
        driver = TensorFlowServing(settings)
        with pytest.raises(ServerGone):
            await driver.observe([])
        assert config.exists()
        await driver.close()

    async def test_a_file_that_cannot_be_written_is_the_volumes_fault(self, tmp_path: Path) -> None:
        server = StandInTfs(tmp_path / "none" / "models.config")
        async with running(server.application()) as url:
            settings = ServerSettings(url, tmp_path, tmp_path, config_file=server.config)
            driver = TensorFlowServing(settings)
            with pytest.raises(VolumeFault):
                await driver.observe([])
            await driver.close()
