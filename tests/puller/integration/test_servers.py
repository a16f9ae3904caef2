"""Real MLServer and Triton: updates without a gap, restarts, doubt, kills."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.puller.processes import Hammer, Puller, get, infer, running
from trainedmodel_devkit.models import write_scale_mlserver, write_scale_triton
from trainedmodel_devkit.servers import MLServer, RunningServer, Triton, serve
from trainedmodel_devkit.servers.base import ServerLauncher
from trainedmodel_devkit.stores import S3Store

WRITERS = {"mlserver": write_scale_mlserver, "triton": write_scale_triton}

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]


@pytest.fixture(params=["mlserver", "triton"])
def launcher(request: pytest.FixtureRequest) -> ServerLauncher:
    made: ServerLauncher = MLServer() if request.param == "mlserver" else Triton()
    made.ensure()
    return made


@pytest.fixture
def server(launcher: ServerLauncher, tmp_path: Path) -> Iterator[RunningServer]:
    with serve(launcher, tmp_path / "volume" / "models") as started:
        yield started


@pytest.fixture
def puller(server: RunningServer, store: S3Store, tmp_path: Path) -> Iterator[Puller]:
    made = Puller(tmp_path, server=server.kind, server_url=server.url, env=store.env())
    with running(made):
        yield made


def uri(server: RunningServer, model: str) -> str:
    return f"s3://models/{server.kind}/{model}"


def is_ready(server: RunningServer, name: str) -> bool:
    try:
        return get(f"{server.url}/v2/models/{name}/ready")[0] == 200
    except OSError:
        return False


def is_reachable(puller: Puller) -> bool:
    status = puller.status()
    return status is None or bool(status["server"]["reachable"])


def test_a_model_comes_changes_and_goes(server: RunningServer, puller: Puller) -> None:
    puller.put("m", uri(server, "k2"))
    puller.wait("m", state="Loaded")
    assert infer(server.url, "m", 4.0) == 8.0
    revision = puller.put("m", uri(server, "k3"))
    puller.wait("m", state="Loaded", revision=revision)
    assert infer(server.url, "m", 4.0) == 12.0
    puller.remove("m")
    puller.wait_gone("m")
    assert not is_ready(server, "m")
    assert puller.files() == []


def weights(model: Path) -> str:
    """Return what a scale model multiplies by, as it lies there; nothing during a swap."""
    try:
        return next(model.rglob("weights.json")).read_text()
    except (OSError, StopIteration):
        return ""


def test_p5_updates_lose_no_request_and_a_broken_one_leaves_the_old_serving(
    server: RunningServer, puller: Puller
) -> None:
    puller.put("m", uri(server, "k2"))
    puller.wait("m", state="Loaded")
    with Hammer(server.url, "m", {2.0, 3.0, 5.0}) as hammer:
        for model in ("k3", "k5", "k3"):
            revision = puller.put("m", uri(server, model))
            puller.wait("m", state="Loaded", revision=revision)
        puller.put("m", uri(server, "broken"))
        failed = puller.wait("m", state="Failed", reason="LoadFailed", loadedRevision=revision)
        time.sleep(0.5)
    assert "broken on purpose" in failed["message"]
    assert hammer.failed == 0, f"{hammer.failed} of {hammer.sent} requests failed"
    assert hammer.sent > 20
    assert hammer.seen == {2.0, 3.0, 5.0}
    assert infer(server.url, "m", 1.0) == 3.0
    # the old files are in place again between two tries: a server that restarts then serves them
    puller.until(lambda: '"k": 3' in weights(puller.models / "m"), "the old files to be back")


def test_a_mended_source_is_loaded_without_a_change_of_the_entry(
    server: RunningServer, puller: Puller, store: S3Store, tmp_path: Path
) -> None:
    write = WRITERS[server.kind]
    source = f"mended-{server.kind}"
    store.put_tree("models", source, write(tmp_path / "broken", 5, broken=True))
    puller.put("m", f"s3://models/{source}")
    puller.wait("m", state="Failed", reason="LoadFailed")
    assert not (puller.models / "m").exists(), "what the server refused is out of its sight"
    store.put_tree("models", source, write(tmp_path / "good", 5))
    puller.wait("m", state="Loaded", timeout_s=20)
    assert infer(server.url, "m", 1.0) == 5.0


def test_p10_a_server_that_was_killed_gets_everything_back(
    server: RunningServer, puller: Puller, launcher: ServerLauncher
) -> None:
    for name in ("a", "b", "c"):
        puller.put(name, uri(server, "k2"))
    for name in ("a", "b", "c"):
        puller.wait(name, state="Loaded")
    # an update that cannot be had must not keep the old revision from coming back
    puller.put("c", "s3://models/nothing-there")
    puller.wait("c", state="Failed")
    server.process.kill(signal.SIGKILL)
    puller.until(lambda: server.process.poll() is not None, "its death")
    puller.until(lambda: not is_reachable(puller), "the loss to be noticed", 5)
    server.process.start()
    for name in ("a", "b"):
        puller.wait(name, state="Loaded", timeout_s=30)
        puller.until(partial(is_ready, server, name), "ready", 30)
    puller.until(lambda: is_ready(server, "c"), "the old revision to serve again", 30)
    assert puller.model("c")["state"] == "Failed"


def test_p2_nothing_is_unloaded_or_loaded_while_the_server_is_silent(
    server: RunningServer, puller: Puller
) -> None:
    puller.put("a", uri(server, "k2"))
    puller.wait("a", state="Loaded")
    server.process.kill(signal.SIGSTOP)
    try:
        puller.until(lambda: not is_reachable(puller), "the silence to be noticed", 40)
        puller.remove("a")
        puller.put("b", uri(server, "k3"))
        waiting = puller.wait("b", state="Waiting", reason="ServerUnreachable")
        assert server.kind in waiting["message"]
        assert puller.model("a")["state"] == "Unloading"
        assert (puller.models / "a").exists(), "files of a model whose unload nobody confirmed"
    finally:
        server.process.kill(signal.SIGCONT)
    puller.wait("b", state="Loaded", timeout_s=30)
    puller.wait_gone("a")


def test_p2_calls_that_a_silent_server_swallowed_are_waited_for_not_repeated(
    server: RunningServer, puller: Puller
) -> None:
    puller.put("a", uri(server, "k2"))
    puller.wait("a", state="Loaded")
    server.process.kill(signal.SIGSTOP)
    try:
        puller.remove("a")
        puller.put("b", uri(server, "k3"))
        puller.wait("b", state="Loading")
        time.sleep(3)
        assert puller.events("model_unloaded") == []
        assert (puller.models / "a").exists()
    finally:
        server.process.kill(signal.SIGCONT)
    puller.wait("b", state="Loaded", timeout_s=30)
    puller.wait_gone("a")
    assert len(puller.events("action_failed")) == 0


def test_p3_files_go_only_after_the_server_let_go(server: RunningServer, puller: Puller) -> None:
    puller.put("m", uri(server, "k2"))
    puller.wait("m", state="Loaded")
    puller.remove("m")
    while (puller.models / "m").exists():
        time.sleep(0.001)
    assert not is_ready(server, "m")
    order = [
        line["event"]
        for line in puller.events()
        if line["event"] in {"model_unloaded", "model_removed"}
    ]
    puller.until(lambda: len(puller.events("model_removed")) == 1, "removal")
    assert order[0] == "model_unloaded"


def test_p7_a_puller_killed_at_any_moment_converges_and_takes_nothing_down(
    server: RunningServer, puller: Puller
) -> None:
    jitter = random.Random(7)
    puller.put("m", uri(server, "k2"))
    puller.wait("m", state="Loaded")
    revision = ""
    with Hammer(server.url, "m", {2.0, 3.0, 5.0}, workers=2) as hammer:
        for turn in range(8):
            revision = puller.put("m", uri(server, ("k3", "k5")[turn % 2]))
            time.sleep(jitter.uniform(0.0, 0.25))
            puller.kill()
            puller.start()
        puller.wait("m", state="Loaded", revision=revision)
    assert hammer.failed == 0, f"{hammer.failed} of {hammer.sent} requests failed"
    assert infer(server.url, "m", 1.0) == 5.0
    puller.remove("m")
    puller.kill()
    puller.start()
    puller.wait_gone("m")
    assert not is_ready(server, "m")
    assert puller.files() == []


def test_a_folder_that_somebody_deleted_comes_back(server: RunningServer, puller: Puller) -> None:
    puller.put("m", uri(server, "k2"))
    puller.wait("m", state="Loaded")
    (puller.models / "m").rename(puller.models.parent / "stolen")
    identity = puller.models / "m" / ".trainedmodel.json"
    puller.until(identity.exists, "the folder", 20)
    assert infer(server.url, "m", 1.0) == 2.0


def test_sigterm_ends_it_even_while_a_model_loads(server: RunningServer, puller: Puller) -> None:
    puller.put("m", uri(server, "slow"))
    puller.wait("m", state="Loading")
    code, _ = puller.terminate()
    assert code == 0
    puller.start()
    puller.wait("m", state="Loaded", timeout_s=30)


def test_a_server_that_starts_late_is_waited_for(
    launcher: ServerLauncher, store: S3Store, tmp_path: Path
) -> None:
    with serve(launcher, tmp_path / "volume" / "models") as server:
        server.process.stop()
        late = Puller(tmp_path, server=server.kind, server_url=server.url, env=store.env())
        with running(late):
            late.put("m", uri(server, "k2"))
            late.wait("m", state="Waiting", reason="ServerUnreachable")
            server.process.start()
            late.wait("m", state="Loaded", timeout_s=30)
