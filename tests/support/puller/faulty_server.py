"""Servers that go wrong on purpose: a model server behind a bad line, a store that lies and stalls.

Tests of the whole puller are not asynchronous, for the puller is a process. So each server here
runs in an event loop of its own, in a thread, and a test changes its behaviour while it runs:

    FaultyProxy   passes a real model server's calls on, but for those that a test has a `Fault` for
    FaultyStore   serves objects from memory, each with its own way of misbehaving
    FaultyLine    passes bytes on, and changes who is behind it without ever refusing a connection
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import aiohttp
from puller.storage.servers import RawServer, Request

T = TypeVar("T")

#: Longest wait for something that the loop does at once, in seconds.
_SOON_S = 20


class LoopThread:
    """An event loop in a thread; a context manager."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.do(self.begin())
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self.end())
        self.do(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SOON_S)
        self._loop.close()

    def do(self, job: Coroutine[Any, Any, T]) -> T:
        """Run something in the loop, and wait for it."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(job, self._loop)
        return future.result(_SOON_S)

    async def begin(self) -> None:
        """Start what runs here."""

    async def end(self) -> None:
        """End it."""


# -- a model server behind a bad line ---------------------------------------------------------

Fault = Callable[[Request], Coroutine[Any, Any, None]]


def answering(status: int, body: bytes) -> Fault:
    """Answer without asking the server."""

    async def answer(request: Request) -> None:
        await request.answer(status, body, Content_Type="application/json")

    return answer


async def no_http(request: Request) -> None:
    """Say what is no HTTP at all, and hang up."""
    request.writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
    await request.writer.drain()
    request.writer.close()


async def hang(request: Request) -> None:
    """Never answer."""
    await request.hang()


class FaultyProxy(LoopThread):
    """Passes calls on to `upstream`, but for those whose path holds a key of `faults`.

    Attributes:
        faults: By a part of the path, such as `/load`.
        asked: `METHOD path` of all calls, in their order.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.faults: dict[str, Fault] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.port}"

    async def begin(self) -> None:
        self._session = aiohttp.ClientSession()
        self._server = await RawServer(self._respond).__aenter__()

    async def end(self) -> None:
        await self._server.__aexit__()
        await self._session.close()

    async def _respond(self, request: Request) -> None:
        body = await request.reader.readexactly(int(request.headers.get("content-length", 0)))
        self.asked.append(f"{request.method} {request.target}")
        for part, fault in list(self.faults.items()):
            if part in request.target:
                await fault(request)
                return
        url = self._upstream + request.target
        kind = {"content-type": "application/json"} if body else {}
        async with self._session.request(
            request.method, url, data=body or None, headers=kind
        ) as answer:
            content = await answer.read()
            await request.answer(
                answer.status, content, Content_Type=answer.headers.get("content-type", "")
            )


class FaultyLine(LoopThread):
    """Passes bytes on to a port; `switch` breaks all connections and passes on to another one.

    Whoever asks through it meets a restart that takes no time at all.
    """

    def __init__(self, port: int) -> None:
        self._behind = port
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def switch(self, port: int) -> None:
        """Put another server behind it."""

        async def change() -> None:
            self._behind = port
            for writer in list(self._open):
                writer.close()

        self.do(change())

    async def begin(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._port: int = self._server.sockets[0].getsockname()[1]

    async def end(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", self._behind)
        ends = {writer, back}
        self._open |= ends
        try:
            await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
        except asyncio.CancelledError:
            pass
        finally:
            self._open -= ends
            self._tasks.discard(task)
            for end in ends:
                end.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


# -- a store that goes wrong ------------------------------------------------------------------


@dataclass
class Object:
    """One object of a `FaultyStore`, and what is wrong with it.

    Attributes:
        status: Answered instead of the object, unless 200.
        rate: Bytes a second; 0 is as fast as can be.
        stops_at: So many bytes are sent, then nothing any more; -1 never stops.
        breaks_at: So many bytes are sent, then the connection ends; -1 never.
        claims: The length that a HEAD tells; -1 tells the right one.
        is_sized: Whether length, ranges and etag are told at all; else it is sent in chunks.
        gets: Requests for its content; a probe for one byte is none.
        sent: Bytes of it that were sent.
    """

    content: bytes
    status: int = 200
    rate: int = 0
    stops_at: int = -1
    breaks_at: int = -1
    claims: int = -1
    is_sized: bool = True
    gets: int = 0
    sent: int = 0

    @property
    def etag(self) -> str:
        """Changes with the content."""
        return f'"v-{hashlib.sha256(self.content).hexdigest()[:16]}"'


class FaultyStore(LoopThread):
    """Serves `objects` by path over HTTP; a path that is not there is 404."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}

    def put(self, path: str, content: bytes, **wrong: Any) -> str:
        """Make or replace an object; return its URL."""
        self.objects[path] = Object(content, **wrong)
        return self.url(path)

    def url(self, path: str) -> str:
        """Return the URL of a path."""
        return f"http://127.0.0.1:{self._server.port}/{path}"

    async def begin(self) -> None:
        self._server = await RawServer(self._respond).__aenter__()

    async def end(self) -> None:
        await self._server.__aexit__()

    async def _respond(self, request: Request) -> None:
        item = self.objects.get(request.target.lstrip("/"))
        if item is None or item.status != 200:
            await request.answer(404 if item is None else item.status)
        elif request.headers.get("if-match", item.etag) != item.etag:
            await request.answer(412)
        elif request.method == "HEAD":
            await self._tell(request, item)
        elif not item.is_sized:
            await self._send_in_chunks(request, item)
        else:
            await self._send(request, item)

    async def _tell(self, request: Request, item: Object) -> None:
        if not item.is_sized:
            request.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await request.writer.drain()
            return
        size = len(item.content) if item.claims < 0 else item.claims
        await request.answer(200, length=size, ETag=item.etag, Accept_Ranges="bytes")

    async def _send(self, request: Request, item: Object) -> None:
        start, end = request.range or (0, len(item.content))
        status = 200
        shown: dict[str, Any] = {"ETag": item.etag, "Accept_Ranges": "bytes"}
        if request.range is not None:
            end = min(end, len(item.content))
            status = 206
            shown["Content_Range"] = f"bytes {start}-{end - 1}/{len(item.content)}"
        await request.answer(status, length=end - start, **shown)
        if end - start > 1 or request.range is None:
            item.gets += 1
        step = max(1, min(65536, len(item.content) // 16))
        for at in range(start, end, step):
            if not await self._may_go_on(request, item, at):
                return
            await self._write(request, item, item.content[at : min(at + step, end)])

    async def _send_in_chunks(self, request: Request, item: Object) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        item.gets += "range" not in request.headers
        for at in range(0, len(item.content), 65536):
            if not await self._may_go_on(request, item, at):
                return
            part = item.content[at : at + 65536]
            await self._write(request, item, b"%x\r\n%b\r\n" % (len(part), part))
        request.writer.write(b"0\r\n\r\n")
        await request.writer.drain()

    async def _may_go_on(self, request: Request, item: Object, at: int) -> bool:
        """Send on, or stop here for ever, or break the connection."""
        if 0 <= item.breaks_at <= at:
            request.writer.transport.abort()
            return False
        if 0 <= item.stops_at <= at:
            await request.hang()
            return False
        return True

    async def _write(self, request: Request, item: Object, data: bytes) -> None:
        request.writer.write(data)
        await request.writer.drain()
        item.sent += len(data)
        if item.rate:
            await asyncio.sleep(len(data) / item.rate)
