"""Faults of the model server: gone, hanging, talking nonsense. What it serves, it keeps.

MLServer is the real one, with a line in front of it that can be made to lie; the instant server
stands in where a load has to hang for ever.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.puller.faulted import InstantProcess, Make, puller_factory, write_instant
from support.puller.faulty_server import Fault, FaultyLine, FaultyProxy, answering, hang, no_http
from support.puller.forked import ForkedPuller, Zygote
from support.puller.processes import Hammer, infer
from trainedmodel_devkit.models import write_scale_mlserver
from trainedmodel_devkit.servers import MLServer, RunningServer, serve

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    for k in (2, 3):
        write_scale_mlserver(folder / "source" / f"k{k}", k)
    write_scale_mlserver(folder / "source" / "slow", 7, load_delay_s=3)
    return folder


@pytest.fixture(scope="module")
def server(shared: Path) -> Iterator[RunningServer]:
    with serve(MLServer(), shared / "volume" / "models") as started:
        yield started


@pytest.fixture
def behind(
    zygote: Zygote, shared: Path, server: RunningServer
) -> Iterator[tuple[ForkedPuller, FaultyProxy]]:
    """A puller that reaches the real MLServer through a line that can be made to lie."""
    with FaultyProxy(server.url) as proxy, puller_factory(zygote, shared) as factory:
        kind = {"server": "mlserver", "server_url": proxy.url}
        puller = factory("--period", "0.2", at=shared, **kind)
        yield puller, proxy
        proxy.faults.clear()
        for path in puller.config.glob("*.json"):
            path.unlink()
        puller.until(lambda: (puller.status() or {}).get("models") == {}, "all to go", 30)
        puller.until(lambda: len(puller.events("model_removed")) > 0, "the removals to be told")
        puller.kill()
        assert puller.files() == []
        puller.log.unlink()


def uri(root: Path, name: str) -> str:
    return f"file://{root}/source/{name}"


FAULTS: dict[str, Fault] = {
    "500": answering(500, b'{"error":"out of order"}'),
    "garbage": answering(200, b"<html>\xff\xfe not what you asked for"),
    "no http": no_http,
}


@pytest.mark.parametrize(
    ("where", "what"),
    [
        *[(where, what) for where in ("/index", "/load") for what in FAULTS],
        # of these the status is all that is read
        *[(where, what) for where in ("/ready", "/live") for what in ("500", "no http")],
    ],
)
def test_p2_a_server_that_talks_nonsense_loses_nothing_and_all_converges_after(
    where: str,
    what: str,
    behind: tuple[ForkedPuller, FaultyProxy],
    shared: Path,
    server: RunningServer,
) -> None:
    puller, proxy = behind
    puller.put("a", uri(shared, "k2"))
    puller.wait("a", state="Loaded", timeout_s=30)
    with Hammer(server.url, "a", {2.0}, workers=1) as hammer:
        proxy.faults[where] = FAULTS[what]
        puller.put("b", uri(shared, "k3"))
        asked = len(proxy.asked)
        puller.until(lambda: any(where in line for line in proxy.asked[asked:]), "the fault", 20)
        time.sleep(0.7)
        assert puller.model("a")["state"] == "Loaded"
        assert (puller.models / "a" / "weights.json").exists()
        loads = sum("/b/load" in line for line in proxy.asked)
        assert loads <= 4, f"{loads} loads of one model in a second"
        proxy.faults.clear()
        revision = puller.put("b", uri(shared, "k3"))
        puller.wait("b", state="Loaded", revision=revision, timeout_s=30)
        puller.wait("a", state="Loaded")
    assert hammer.failed == 0
    assert not any("/unload" in line for line in proxy.asked)
    assert puller.events("model_removed") == []
    assert infer(server.url, "b", 2.0) == 6.0


def test_an_update_that_a_lying_server_refused_comes_when_it_tells_the_truth(
    behind: tuple[ForkedPuller, FaultyProxy], shared: Path, server: RunningServer
) -> None:
    puller, proxy = behind
    first = puller.put("a", uri(shared, "k2"))
    puller.wait("a", state="Loaded", timeout_s=30)
    with Hammer(server.url, "a", {2.0, 3.0}, workers=1) as hammer:
        proxy.faults["/load"] = FAULTS["500"]
        revision = puller.put("a", uri(shared, "k3"))
        failed = puller.wait("a", state="Failed", reason="LoadFailed", loadedRevision=first)
        assert "out of order" in failed["message"]
        assert infer(server.url, "a", 1.0) == 2.0
        assert '"k": 2' in (puller.models / "a" / "weights.json").read_text()
        proxy.faults.clear()
        puller.wait("a", state="Loaded", revision=revision, timeout_s=30)
    assert infer(server.url, "a", 1.0) == 3.0
    assert hammer.failed == 0


def test_a_liveness_that_hangs_is_doubt_and_nothing_is_lost(
    behind: tuple[ForkedPuller, FaultyProxy], shared: Path, server: RunningServer
) -> None:
    puller, proxy = behind
    puller.put("a", uri(shared, "k2"))
    puller.wait("a", state="Loaded", timeout_s=30)
    proxy.faults["/live"] = hang
    puller.until(lambda: not _is_known(puller), "doubt", 30)
    puller.put("b", uri(shared, "k3"))
    puller.remove("a")
    puller.wait("b", state="Waiting", reason="ServerUnreachable")
    assert infer(server.url, "a", 1.0) == 2.0
    assert (puller.models / "a").exists()
    proxy.faults.clear()
    puller.wait("b", state="Loaded", timeout_s=30)
    puller.wait_gone("a")


def _is_known(puller: ForkedPuller) -> bool:
    status = puller.status()
    return status is None or bool(status["server"]["isKnown"])


def test_a_slow_model_delays_no_other_on_a_real_server(
    behind: tuple[ForkedPuller, FaultyProxy], shared: Path
) -> None:
    puller, _ = behind
    puller.put("slow", uri(shared, "slow"))
    puller.wait("slow", state="Loading", timeout_s=30)
    for number in range(10):
        puller.put(f"m{number}", uri(shared, "k2"))
    for number in range(10):
        puller.wait(f"m{number}", state="Loaded", timeout_s=30)
    loaded = [line["model"] for line in puller.events("model_loaded")]
    puller.wait("slow", state="Loaded", timeout_s=30)
    assert "slow" not in loaded, "they came after it"


def test_five_loads_that_hang_stop_no_other_model(make: Make, tmp_path: Path) -> None:
    with InstantProcess() as server:
        puller = make("--load-timeout", "30", server="triton", server_url=server.url)
        source = write_instant(tmp_path, "m")
        for number in range(5):
            puller.put(f"hang-{number}", source)
        puller.until(lambda: server.told()["asked"].get("load", 0) >= 5, "five loads", 30)
        names = {f"good{number}" for number in range(30)}
        for name in names:
            puller.put(name, source)
        puller.until(lambda: names <= server.loaded, "the others", 30)
        for number in range(5):
            assert puller.model(f"hang-{number}")["state"] == "Loading"
        told = server.told()
        assert told["insane"] == []
        assert told["asked"]["load"] == 35


def test_p10_a_restart_that_no_ping_fails_in_is_noticed(make: Make, tmp_path: Path) -> None:
    names = {f"m{number}" for number in range(20)}
    with InstantProcess() as old, InstantProcess() as new, FaultyLine(old.port) as line:
        puller = make(server="triton", server_url=line.url)
        for name in names:
            puller.put(name, write_instant(tmp_path, "m"))
        puller.until(lambda: old.loaded == names, "the first server's", 30)
        time.sleep(2.5)  # pings have a kept connection by now
        line.switch(new.port)
        puller.until(lambda: new.loaded == names, "the second server's", 30)
        assert puller.events("server_down") == [], "a ping failed: that is another test"
        assert len(puller.events("model_downloaded")) == 20
        assert new.told()["insane"] == []


def test_p10_what_was_wanted_while_the_server_was_away_is_all_that_comes_back(
    make: Make, tmp_path: Path
) -> None:
    source = write_instant(tmp_path, "m")
    with InstantProcess() as server:
        puller = make("--period", "0.2", server="triton", server_url=server.url)
        for name in ("goes", "stays", "changes"):
            puller.put(name, source)
        puller.until(lambda: server.count == 3, "three models", 30)
        server.kill()
        puller.until(lambda: len(puller.events("server_down")) == 1, "the loss", 30)
        puller.remove("goes")
        puller.put("comes", source)
        revision = puller.put("changes", write_instant(tmp_path, "m2", b"other"))
        server.start()
        puller.until(lambda: server.loaded == {"stays", "changes", "comes"}, "the three", 30)
        puller.wait("changes", state="Loaded", revision=revision)
        puller.wait_gone("goes")
        # that a name is unloaded once more, to be sure, is no harm (P3)
        assert set(server.told()["insane"]) <= {"unload of goes, which is not loaded"}
