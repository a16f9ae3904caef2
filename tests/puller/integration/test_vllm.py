"""The real vLLM: adapters that come, change under requests, break, and go. Only when named.

`TRAINEDMODEL_TEST_SERVERS=vllm`: it takes 7 GB on disk, a minute to install, and one or two to
start, which it does twice.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest
from support.puller.processes import Puller, running
from trainedmodel_contract.entry import Entry
from trainedmodel_devkit.models_lora import write_lora
from trainedmodel_devkit.servers.base import RunningServer, serve
from trainedmodel_devkit.servers.vllm import VLLM as Launcher  # noqa: N811 - the driver is VLLM too
from trainedmodel_devkit.stores import S3Store
from trainedmodel_puller.core.state import ServerState
from trainedmodel_puller.drivers.auto import Identity, identify
from trainedmodel_puller.drivers.base import ServerGone, ServerSettings, Target
from trainedmodel_puller.drivers.vllm import VLLM
from trainedmodel_puller.errors import ServerFault

IS_NAMED = "vllm" in os.environ.get("TRAINEDMODEL_TEST_SERVERS", "").split(",")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not IS_NAMED, reason="TRAINEDMODEL_TEST_SERVERS does not name vllm"),
]

log: Final = logging.getLogger(__name__)
Words = tuple[int, ...]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serve(Launcher(), tmp_path_factory.mktemp("adapters"), timeout_s=300) as started:
        yield started


@pytest.fixture
async def driver(server: RunningServer) -> AsyncIterator[VLLM]:
    made = VLLM(ServerSettings(server.url, server.model_dir, server.model_dir, 60))
    yield made
    for name in (await made.observe([])).states:
        await made.unload(name)
    await made.close()


def target(server: RunningServer, name: str, seed: int, **how: Any) -> Target:
    revision = f"r{seed}"
    path = write_lora(server.model_dir / name / revision, seed, **how)
    return Target(name, revision, path, Entry(name=name, storage_uri="s3://b/x", revision=revision))


def post(server: RunningServer, path: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(
        server.url + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def register(server: RunningServer, name: str, path: Path) -> None:
    post(server, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})


def ask(server: RunningServer, model: str, words: int = 4) -> tuple[int, Words]:
    """Return the status, and the numbers of the words that the model says."""
    question = {
        "model": model,
        "prompt": "ab",
        "max_tokens": words,
        "ignore_eos": True,
        "temperature": 0,
        "return_token_ids": True,
    }
    try:
        said = json.loads(post(server, "/v1/completions", question))
    except urllib.error.HTTPError as error:
        return error.code, ()
    return 200, tuple(said["choices"][0]["token_ids"])


class Requests:
    """Asks one adapter without a pause, and keeps count."""

    def __init__(self, server: RunningServer, model: str, workers: int = 3) -> None:
        self._server = server
        self._model = model
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(workers)]
        self.sent: list[tuple[float, float, int]] = []
        self.said: set[Words] = set()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            status, words = ask(self._server, self._model)
            self.sent.append((began, time.monotonic(), status))
            if status == 200:
                self.said.add(words)

    @property
    def failed(self) -> list[tuple[float, float, int]]:
        return [one for one in self.sent if one[2] != 200]

    def wait(self, more: int) -> None:
        """Return after so many further answers."""
        goal = len(self.sent) + more
        deadline = time.monotonic() + 60
        while len(self.sent) < goal:
            assert time.monotonic() < deadline
            time.sleep(0.01)


async def test_it_says_who_it_is(server: RunningServer) -> None:
    assert await identify(server.url) == Identity("vllm", server.url)


async def test_an_adapter_comes_changes_and_goes(server: RunningServer, driver: VLLM) -> None:
    said: list[Words] = []
    for seed in (1, 2, 1):
        await driver.load(target(server, "a", seed))
        observation = await driver.observe([])
        assert observation.states == {"a": ServerState.READY}
        assert observation.revisions == {"a": f"r{seed}"}
        status, words = ask(server, "a")
        assert status == 200
        said.append(words)
    assert said[0] == said[2] != said[1]
    await driver.unload("a")
    assert ask(server, "a")[0] == 404
    assert (await driver.observe(["a"])).states == {}


async def test_p5_an_update_costs_only_the_requests_of_a_short_gap(
    server: RunningServer, driver: VLLM
) -> None:
    one, two = target(server, "a", 1), target(server, "a", 2)
    await driver.load(one)
    with Requests(server, "a") as requests:
        for turn in range(10):
            await asyncio.to_thread(requests.wait, 5)
            await driver.load((two, one)[turn % 2])
        await asyncio.to_thread(requests.wait, 5)
    gaps = [end - began for began, end, _ in requests.failed]
    log.info(
        "10 updates: %d of %d requests were refused, the longest after %.0f ms",
        len(gaps),
        len(requests.sent),
        1000 * max(gaps, default=0),
    )
    assert {status for _, _, status in requests.sent} <= {200, 404}
    assert len(requests.said) == 2
    assert len(requests.failed) <= len(requests.sent) // 4


@pytest.mark.parametrize("how", [{"broken": True}, {"rank": 32}])
async def test_p5_a_broken_update_takes_no_request_down(
    server: RunningServer, driver: VLLM, how: dict[str, Any]
) -> None:
    await driver.load(target(server, "a", 1))
    with Requests(server, "a") as requests:
        await asyncio.to_thread(requests.wait, 3)
        with pytest.raises(ServerFault, match=r"deserializing header|max_lora_rank") as caught:
            await driver.load(target(server, "a", 3, **how))
        await asyncio.to_thread(requests.wait, 3)
    assert caught.value.reason == "LoadFailed"
    assert requests.failed == []
    assert (await driver.observe([])).revisions == {"a": "r1"}


async def test_p3_files_can_go_after_an_unload_even_under_requests_and_eviction(
    server: RunningServer, driver: VLLM
) -> None:
    names = [f"m{number}" for number in range(6)]  # more than it holds in memory
    for seed, name in enumerate(names):
        await driver.load(target(server, name, 10 + seed))
    waiting = [asyncio.create_task(asyncio.to_thread(ask, server, n, 60)) for n in names * 3]
    await driver.unload("m0")
    shutil.rmtree(server.model_dir / "m0")
    statuses = {status for status, _ in await asyncio.gather(*waiting)}
    assert statuses <= {200, 404}
    assert {ask(server, name)[0] for name in names[1:]} == {200}
    assert server.process.poll() is None


async def test_p7_the_trial_of_a_killed_puller_goes_with_the_first_look(
    server: RunningServer, driver: VLLM
) -> None:
    await driver.load(target(server, "a", 1))
    left = target(server, "a", 2)
    register(server, "a..probe-01234567", left.path)
    assert ask(server, "a..probe-01234567")[0] == 200
    assert (await driver.observe([])).revisions == {"a": "r1"}
    assert ask(server, "a..probe-01234567")[0] == 404
    assert ask(server, "a")[0] == 200


async def test_a_puller_serves_updates_keeps_the_old_and_lets_go(
    server: RunningServer, driver: VLLM, store: S3Store, tmp_path: Path
) -> None:
    for seed, how in ((1, {}), (2, {}), (3, {"broken": True})):
        store.put_tree("models", f"lora/{seed}", write_lora(tmp_path / str(seed), seed, **how))
    made = Puller(tmp_path, server="vllm", server_url=server.url, env=store.env())
    with running(made) as puller:
        puller.put("e", "s3://models/lora/1")
        puller.wait("e", state="Loaded")
        before = ask(server, "e")
        revision = puller.put("e", "s3://models/lora/2")
        puller.wait("e", state="Loaded", revision=revision)
        after = ask(server, "e")
        assert before[0] == after[0] == 200
        assert before != after
        puller.put("e", "s3://models/lora/3")
        failed = puller.wait("e", state="Failed", reason="LoadFailed", loadedRevision=revision)
        assert "deserializing header" in failed["message"]
        assert ask(server, "e") == after
        puller.kill()
        puller.start()
        puller.wait("e", state="Failed", loadedRevision=revision)
        assert ask(server, "e") == after
        puller.remove("e")
        puller.wait_gone("e")
        assert ask(server, "e")[0] == 404
        assert puller.files() == []


async def test_p10_a_server_that_was_killed_knows_nothing_and_takes_all_again(
    server: RunningServer, driver: VLLM
) -> None:
    adapter = target(server, "a", 1)
    await driver.load(adapter)
    before = ask(server, "a")
    server.process.kill(signal.SIGKILL)
    while server.process.poll() is None:  # noqa: ASYNC110 - a process, not a task
        await asyncio.sleep(0.05)
    with pytest.raises(ServerGone):
        await driver.observe([])
    server.process.start()
    deadline = time.monotonic() + 300
    while True:
        try:
            assert (await driver.observe([])).states == {}
            break
        except ServerGone:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.5)
    await driver.load(adapter)
    assert ask(server, "a") == before
