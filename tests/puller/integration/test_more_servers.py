"""Real servers of other dialects: Multi Model Server, TorchServe, llama-server, KServe.

KServe takes a minute and a half and half a gigabyte to install, so it runs only when named:
`TRAINEDMODEL_TEST_SERVERS=kserve`.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import time
import urllib.request
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from support.puller.processes import Hammer, Puller, infer, running
from trainedmodel_devkit.errors import MissingTool
from trainedmodel_devkit.fixtures import s3_store
from trainedmodel_devkit.models_more import write_gguf, write_scale_java, write_scale_kserve
from trainedmodel_devkit.servers import (
    KServe,
    Llama,
    MultiModelServer,
    RunningServer,
    ServerLauncher,
    TorchServe,
    serve,
)
from trainedmodel_devkit.servers.java import JavaServer
from trainedmodel_devkit.stores import S3Store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

log: Final = logging.getLogger(__name__)
Answer = Hashable | None
BUCKET = "models"


def post(url: str, body: dict[str, Any], timeout_s: float = 5) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.loads(answer.read())
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Dialect:
    """One kind of server, and how its models are made and asked."""

    kind: str
    launcher: Callable[[], ServerLauncher]
    write: Callable[..., Path]
    #: Whether its driver promises that an update loses no request.
    is_gapless: bool

    def ask(self, launcher: ServerLauncher, server: RunningServer, name: str) -> Answer:
        """Return what the model answers; None is any kind of failure."""
        if isinstance(launcher, JavaServer):
            port = int(server.url.rpartition(":")[2])
            found = post(f"{launcher.inference_url(port)}/predictions/{name}", {"x": 1.0})
            return None if found is None else float(found["y"])
        if isinstance(launcher, Llama):
            question = {"model": name, "prompt": "ab", "n_predict": 8, "temperature": 0}
            found = post(f"{server.url}/completion", question)
            return None if found is None else str(found["content"])
        return infer(server.url, name, 1.0)


DIALECTS = {
    "mms": Dialect("mms", MultiModelServer, write_scale_java, is_gapless=False),
    "torchserve": Dialect("torchserve", TorchServe, write_scale_java, is_gapless=True),
    "llama": Dialect("llama", Llama, write_gguf, is_gapless=False),
    "kserve": Dialect("kserve", KServe, write_scale_kserve, is_gapless=True),
}
OPTED_INTO = {"kserve"} & set(os.environ.get("TRAINEDMODEL_TEST_SERVERS", "").split(","))


@pytest.fixture(params=sorted(DIALECTS.keys() - {"kserve"} | OPTED_INTO))
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return DIALECTS[request.param]


@pytest.fixture
def launcher(dialect: Dialect) -> ServerLauncher:
    made = dialect.launcher()
    made.ensure()
    return made


@pytest.fixture
def server(launcher: ServerLauncher, tmp_path: Path) -> Iterator[RunningServer]:
    with serve(launcher, tmp_path / "volume" / "models") as started:
        yield started


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    """An S3 server with <kind>/2, <kind>/3, <kind>/5 and <kind>/broken."""
    folder = tmp_path_factory.mktemp("sources")
    with s3_store() as running_store:
        for kind, dialect in DIALECTS.items():
            for k in (2, 3, 5):
                tree = dialect.write(folder / kind / str(k), k)
                running_store.put_tree(BUCKET, f"{kind}/{k}", tree)
            broken = dialect.write(folder / kind / "broken", 7, broken=True)
            running_store.put_tree(BUCKET, f"{kind}/broken", broken)
        bare = write_scale_java(folder / "bare", 11, bare=True)
        running_store.put_tree(BUCKET, "bare", bare)
        yield running_store


@pytest.fixture
def puller(server: RunningServer, sources: S3Store, tmp_path: Path) -> Iterator[Puller]:
    made = Puller(tmp_path, server=server.kind, server_url=server.url, env=sources.env())
    with running(made):
        yield made


@pytest.fixture
def ask(
    dialect: Dialect, launcher: ServerLauncher, server: RunningServer
) -> Callable[[str], Answer]:
    return partial(dialect.ask, launcher, server)


class Knocker(Hammer):
    """Asks one model without a pause, in its server's own dialect; keeps the longest silence."""

    def __init__(self, ask: Callable[[], Answer], workers: int = 3) -> None:
        super().__init__("", "", set(), workers)
        self._ask = ask
        self.answers: set[Answer] = set()
        self.longest_gap_s = 0.0
        self._last = time.monotonic()

    def __enter__(self) -> Knocker:
        super().__enter__()
        return self

    def _run(self) -> None:
        deadline = time.monotonic() + 60
        while not self._stop.is_set() and time.monotonic() < deadline:
            answer = self._ask()
            with self._lock:
                self.sent += 1
                if answer is None:
                    self.failed += 1
                    continue
                self.answers.add(answer)
                now = time.monotonic()
                self.longest_gap_s = max(self.longest_gap_s, now - self._last)
                self._last = now


def uri(dialect: Dialect, model: int | str) -> str:
    return f"s3://{BUCKET}/{dialect.kind}/{model}"


def is_reachable(puller: Puller) -> bool:
    status = puller.status()
    return status is None or bool(status["server"]["reachable"])


def test_a_model_comes_changes_and_goes(
    dialect: Dialect, puller: Puller, ask: Callable[[str], Answer]
) -> None:
    puller.put("m", uri(dialect, 2))
    puller.wait("m", state="Loaded")
    first = ask("m")
    assert first is not None
    revision = puller.put("m", uri(dialect, 3))
    puller.wait("m", state="Loaded", revision=revision)
    second = ask("m")
    assert second not in {None, first}
    puller.put("n", uri(dialect, 3))
    puller.wait("n", state="Loaded")
    assert ask("n") == second, "two names with one source"
    for name in ("m", "n"):
        puller.remove(name)
        puller.wait_gone(name)
        assert ask(name) is None
    assert puller.files() == []


def test_p5_an_update_is_served_and_a_broken_one_interrupts_nothing(
    dialect: Dialect, puller: Puller, ask: Callable[[str], Answer]
) -> None:
    puller.put("m", uri(dialect, 2))
    puller.wait("m", state="Loaded")
    with Knocker(lambda: ask("m")) as good:
        # On a busy machine an update may be over before the next request is sent.
        puller.until(lambda: len(good.answers) == 1, "an answer of the first revision")
        for model, answers in ((3, 2), (5, 3), (3, 3)):
            revision = puller.put("m", uri(dialect, model))
            puller.wait("m", state="Loaded", revision=revision, timeout_s=30)
            puller.until(
                lambda answers=answers: len(good.answers) == answers,  # type: ignore[misc]
                "an answer of the new revision",
            )
    assert len(good.answers) == 3
    assert good.failed == 0 or not dialect.is_gapless, f"{good.failed} of {good.sent} failed"
    log.info(
        "%s: %d of %d requests failed in three updates, longest silence %.2f s",
        *(dialect.kind, good.failed, good.sent, good.longest_gap_s),
    )
    before = ask("m")
    with Knocker(lambda: ask("m")) as bad:
        puller.put("m", uri(dialect, "broken"))
        puller.wait("m", state="Failed", reason="LoadFailed", loadedRevision=revision)
        time.sleep(0.5)
    assert bad.failed == 0, f"{bad.failed} of {bad.sent} requests failed"
    assert bad.answers == {before}


def test_p10_a_server_that_was_killed_gets_everything_back(
    dialect: Dialect, server: RunningServer, puller: Puller, ask: Callable[[str], Answer]
) -> None:
    for name in ("a", "b", "c"):
        puller.put(name, uri(dialect, 2))
    for name in ("a", "b", "c"):
        puller.wait(name, state="Loaded")
    puller.put("c", uri(dialect, "broken"))
    puller.wait("c", state="Failed")
    server.process.kill(signal.SIGKILL)
    puller.until(lambda: server.process.poll() is not None, "its death")
    puller.until(lambda: not is_reachable(puller), "the loss to be noticed", 5)
    server.process.start()
    for name in ("a", "b"):
        puller.wait(name, state="Loaded", timeout_s=40)
        puller.until(lambda name=name: ask(name) is not None, f"{name} to serve", 30)  # type: ignore[misc]
    puller.until(lambda: ask("c") is not None, "the old revision to serve again", 40)
    assert puller.model("c")["state"] == "Failed"


def test_p7_a_puller_killed_at_any_moment_converges_and_leaves_nothing(
    dialect: Dialect, server: RunningServer, puller: Puller, ask: Callable[[str], Answer]
) -> None:
    jitter = random.Random(7)
    puller.put("m", uri(dialect, 5))
    puller.wait("m", state="Loaded")
    last = ask("m")
    revision = ""
    with Knocker(lambda: ask("m"), workers=2) as knocker:
        for turn in range(6):
            revision = puller.put("m", uri(dialect, (3, 5)[turn % 2]))
            time.sleep(jitter.uniform(0.0, 0.6))
            puller.kill()
            puller.start()
        puller.wait("m", state="Loaded", revision=revision, timeout_s=40)
    assert knocker.failed == 0 or not dialect.is_gapless, (
        f"{knocker.failed} of {knocker.sent} failed"
    )
    assert ask("m") == last
    puller.remove("m")
    puller.kill()
    puller.start()
    puller.wait_gone("m")
    assert ask("m") is None
    assert puller.files() == []
    assert [path.name for path in puller.models.iterdir()] == []


def test_p2_calls_that_a_silent_server_swallowed_are_waited_for_not_repeated(
    dialect: Dialect, server: RunningServer, puller: Puller
) -> None:
    puller.put("a", uri(dialect, 2))
    puller.wait("a", state="Loaded")
    server.process.kill(signal.SIGSTOP)
    try:
        puller.remove("a")
        puller.put("b", uri(dialect, 3))
        time.sleep(3)
        assert puller.events("model_unloaded") == []
        assert (puller.models / "a").exists()
    finally:
        server.process.kill(signal.SIGCONT)
    puller.wait("b", state="Loaded", timeout_s=30)
    puller.wait_gone("a", timeout_s=30)


@pytest.mark.parametrize("dialect", [DIALECTS["mms"], DIALECTS["torchserve"]], ids=lambda d: d.kind)
class TestManagementApi:
    def test_a_manifest_is_made_for_a_bare_handler(
        self, puller: Puller, ask: Callable[[str], Answer]
    ) -> None:
        puller.put("m", f"s3://{BUCKET}/bare")
        puller.wait("m", state="Loaded")
        assert ask("m") == 11.0

    def test_what_somebody_else_registered_under_a_name_is_replaced(
        self,
        dialect: Dialect,
        server: RunningServer,
        puller: Puller,
        ask: Callable[[str], Answer],
    ) -> None:
        puller.put("m", uri(dialect, 2))
        puller.wait("m", state="Loaded")
        puller.put("other", uri(dialect, 3))
        puller.wait("other", state="Loaded")
        (tree,) = (path for path in (puller.models / "other").iterdir() if path.is_dir())
        url = str(tree) if dialect.kind == "torchserve" else f"other/{tree.name}"
        manage(server, "DELETE", "/models/m")
        manage(server, "POST", f"/models?url={url}&model_name=m&initial_workers=1&synchronous=true")
        assert ask("m") == 3.0
        puller.until(lambda: ask("m") == 2.0, "ours to serve again", 60)


def manage(server: RunningServer, method: str, path: str) -> None:
    request = urllib.request.Request(server.url + path, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200


def test_a_machine_without_java_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingTool, match="openjdk"):
        MultiModelServer().ensure()


@pytest.mark.parametrize("dialect", [DIALECTS["llama"]], ids=["llama"])
class TestLlama:
    @pytest.fixture
    def launcher(self) -> ServerLauncher:
        made = Llama(models_max=2)
        made.ensure()
        return made

    def test_a_model_that_does_not_fit_pushes_no_other_out(
        self, dialect: Dialect, puller: Puller, ask: Callable[[str], Answer]
    ) -> None:
        for name in ("a", "b"):
            puller.put(name, uri(dialect, 2))
            puller.wait(name, state="Loaded")
        before = ask("b")
        puller.put("c", uri(dialect, 3))
        refused = puller.wait("c", state="Blocked", reason="ServerFull")
        assert "--models-max 2" in refused["message"]
        puller.put("b", uri(dialect, 5))
        refused = puller.wait("b", state="Blocked", reason="ServerFull")
        assert "prove=false" in refused["message"]
        assert ask("a") == ask("b") == before
        # who has no place to prove an update may go without
        revision = puller.put("b", uri(dialect, 3), parameters={"prove": "false"})
        puller.wait("b", state="Loaded", revision=revision)
        assert ask("b") not in {None, before}
        assert ask("a") == before
        puller.remove("a")
        puller.wait("c", state="Loaded", timeout_s=60)
