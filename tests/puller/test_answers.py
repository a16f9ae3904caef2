"""A server may answer anything: a driver takes it for doubt, for absence or for a refusal.

No answer ever comes through as an error of ours, or makes a driver wait without an end. Time is
virtual; what goes over the wire is told in the last class, on real sockets.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.puller.answers_corpus import NONSENSE, ODD, RIGHT
from support.puller.driver_builders import entry, server_settings
from trainedmodel_puller.core.state import Layout, ServerState
from trainedmodel_puller.drivers import (
    client,
    llama,
    lora,
    management,
    mms,
    model_config,
    torchserve,
    v2,
    vllm,
)
from trainedmodel_puller.drivers.base import (
    ModelServer,
    Observation,
    ServerGone,
    ServerHungUp,
    ServerInDoubt,
    Target,
)
from trainedmodel_puller.drivers.client import ServerClient, words
from trainedmodel_puller.drivers.factory import make_server
from trainedmodel_puller.errors import ModelFault, ServerFault

_STATUSES = [200, 200, 200, 200, 201, 202, 204, 301, 400, 404, 409, 500, 503]
_TIMED = (llama, lora, management, mms, model_config, torchserve, v2, vllm)


class Clock:
    """Time that passes while somebody sleeps, and a little with each call."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        self.now += 0.001
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.0)


class Lying(ServerClient):
    """A client whose server says what it is told to."""

    def __init__(self, kind: str, say: Callable[[], tuple[int, bytes]]) -> None:
        super().__init__(kind, "http://127.0.0.1:1")
        self._say = say

    async def call(self, *_: Any, **__: Any) -> tuple[int, bytes]:
        status, body = self._say()
        if status < 100:
            raise (ServerGone, ServerInDoubt, ServerHungUp)[status]("as told")
        return status, body

    async def ping(self, *_: Any, **__: Any) -> tuple[int, bool]:
        status, _body = await self.call()
        return status, True


@st.composite
def bodies(draw: st.DrawFn, kind: str) -> bytes:
    """A document of the right shape with some of its parts replaced, or no such thing at all."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.one_of(st.sampled_from(NONSENSE), st.binary(max_size=30)))
    document = copy.deepcopy(draw(st.sampled_from(RIGHT[kind])))
    for _ in range(draw(st.integers(0, 3))):
        document = _replaced(draw, document)
    return json.dumps(document).encode()


def _replaced(draw: st.DrawFn, document: Any) -> Any:
    """Replace the document, or something deeper in it, by something odd."""
    keys: list[Any] = []
    if isinstance(document, dict):
        keys = sorted(document)
    elif isinstance(document, list):
        keys = list(range(len(document)))
    if not keys or draw(st.integers(0, 5)) == 0:
        return copy.deepcopy(draw(st.sampled_from(ODD)))
    key = draw(st.sampled_from(keys))
    document[key] = _replaced(draw, document[key])
    return document


def make_driver(kind: str, root: Path, say: Callable[[], tuple[int, bytes]]) -> ModelServer:
    made = make_server(kind, server_settings("http://127.0.0.1:1", 2.0, root))
    made._client = Lying(kind, say)  # type: ignore[attr-defined]
    return made


async def run_all(made: ModelServer, root: Path) -> None:
    """Ask for everything; only the three ways of not knowing, and of failing, may come out."""
    folder = root / "m"
    path = folder / made.folder_name("r") if made.layout is Layout.PER_REVISION else folder
    for is_serving in (False, True):
        target = Target("m", "r", path, entry(name="m", revision="r"), is_serving)
        asked: list[Callable[[], Awaitable[Any]]] = [
            made.ping,
            partial(made.observe, ["m", "n"]),
            partial(made.load, target),
            partial(made.unload, "m"),
        ]
        for ask in asked:
            try:
                found = await asyncio.wait_for(ask(), 20)
            except (ServerGone, ServerInDoubt):
                continue
            except ModelFault as fault:
                assert isinstance(fault, ServerFault)  # noqa: PT017  (others are faults of ours)
                assert fault.message.isprintable()  # noqa: PT017
                assert fault.message.encode()  # noqa: PT017  (whole characters, for JSON)
                continue
            if isinstance(found, Observation):
                assert all(isinstance(state, ServerState) for state in found.states.values())
                assert all(isinstance(name, str) for name in found.states)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in _TIMED:
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made.monotonic))
    monkeypatch.setattr(asyncio, "sleep", made.sleep)
    return made


def run(kind: str, root: Path, say: Callable[[], tuple[int, bytes]]) -> None:
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(run_all(make_driver(kind, root, say), root))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", RIGHT)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=examples(40),
)
@given(data=st.data())
def test_any_answer_is_doubt_absence_or_a_refusal(
    kind: str, data: st.DataObject, tmp_path: Path, clock: Clock
) -> None:
    drawn = st.tuples(st.sampled_from([0, 1, 2, *_STATUSES * 3]), bodies(kind))
    some = data.draw(st.lists(drawn, min_size=1, max_size=6))
    at = 0

    def say() -> tuple[int, bytes]:
        nonlocal at
        at += 1
        return some[at % len(some)]

    run(kind, tmp_path, say)


@pytest.mark.parametrize("kind", RIGHT)
@pytest.mark.parametrize("number", range(len(NONSENSE)))
def test_no_answer_of_the_corpus_is_an_error_of_ours(
    kind: str, number: int, tmp_path: Path, clock: Clock
) -> None:
    run(kind, tmp_path, lambda: (200, NONSENSE[number]))
    run(kind, tmp_path, lambda: (500, NONSENSE[number]))


def test_pages_without_an_end_are_not_turned_for_ever(tmp_path: Path, clock: Clock) -> None:
    turned = 0

    def say() -> tuple[int, bytes]:
        nonlocal turned
        turned += 1
        page = {"models": [], "nextPageToken": str(turned)}
        return 200, json.dumps(page).encode()

    made = make_driver("torchserve", tmp_path, say)
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(ServerInDoubt, match="pages"):
            loop.run_until_complete(made.observe([]))
    finally:
        loop.close()
    assert turned < 2000


@given(st.binary(max_size=500))
@example(b'{"error": "\\ud800"}')
@example(b'{"error": "\\u001b[31mred"}')
@example(b"[" * 100_000)
@example(b'{"error":' + b"[" * 500 + b"]" * 500 + b"}")
def test_words_are_short_and_safe_to_be_shown(body: bytes) -> None:
    said = words(body)
    assert len(said) <= 300
    assert said.isprintable()
    assert said.encode().decode() == said


class TestOnTheWire:
    """Real sockets: what a driver hears is bounded in size and time."""

    @staticmethod
    async def ask(answer: Callable[[asyncio.StreamWriter], Any], timeout_s: float = 5) -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            try:
                await answer(writer)
            except ConnectionError:
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        asked = ServerClient("mlserver", f"http://127.0.0.1:{port}")
        try:
            return await asked.call("GET", "/x", timeout_s)
        finally:
            await asked.close()
            server.close()

    async def test_an_answer_without_an_end_is_doubt_and_is_not_kept(self) -> None:
        sent = 0

        async def endless(writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(b" " * 65536)
                sent += 65536
                await writer.drain()

        with pytest.raises(ServerInDoubt, match="MiB"):
            await self.ask(endless, timeout_s=15)
        assert sent < 4 * client.MOST_BYTES

    async def test_an_answer_that_was_never_asked_to_be_packed_is_not_unpacked(self) -> None:
        import gzip

        packed = gzip.compress(b"0" * 10_000_000)

        async def bomb(writer: asyncio.StreamWriter) -> None:
            head = f"Content-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
            writer.write(b"HTTP/1.1 200 OK\r\n" + head.encode() + packed)
            await writer.drain()

        _, body = await self.ask(bomb)
        assert len(body) < 100_000

    @pytest.mark.parametrize(
        "said",
        [
            b"",
            b"\x00\xff\xfe garbage\r\n\r\n",
            b"HTTP/1.1 abc OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000 + b": 1\r\n\r\n",
            b"HTTP/1.1 301 Moved\r\nLocation: http://[::bad\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff=\xff\r\nContent-Type: \xff\r\n\r\n",
            b"HTTP/1.1 99999 No\r\n\r\n",
        ],
    )
    async def test_what_is_no_http_is_doubt(self, said: bytes) -> None:
        async def answer(writer: asyncio.StreamWriter) -> None:
            writer.write(said)
            await writer.drain()

        try:
            status, body = await self.ask(answer)
        except (ServerInDoubt, ServerGone):
            return
        assert isinstance(status, int)
        assert isinstance(body, bytes)
