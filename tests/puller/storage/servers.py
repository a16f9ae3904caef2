"""An HTTP server on a real socket whose every byte a test decides."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

import pytest
from trainedmodel_contract.uri import StorageUri, parse_uri


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def hang(self) -> None:
        """Say nothing more until the client has gone."""
        await self.reader.read()
        self.writer.close()

    @property
    def range(self) -> tuple[int, int] | None:
        """First byte and the one after the last."""
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return (int(match[1]), int(match[2]) + 1) if match else None

    async def answer(
        self, status: int, body: bytes = b"", *, length: int | None = None, **headers: Any
    ) -> None:
        shown = {"Content-Length": str(len(body) if length is None else length)}
        shown |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"HTTP/1.1 {status} Words"] + [f"{k}: {v}" for k, v in shown.items() if v]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())
        if self.method != "HEAD":
            self.writer.write(body)
        await self.writer.drain()

    async def serve(self, content: bytes, etag: str = '"1"', **headers: Any) -> None:
        """Answer like a good server does, ranges and conditions included."""
        wanted = self.headers.get("if-match")
        if wanted is not None and wanted != etag:
            await self.answer(412)
        elif self.range is None:
            await self.answer(200, content, ETag=etag, Accept_Ranges="bytes", **headers)
        else:
            start, end = self.range
            part = content[start:end]
            shown = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
            await self.answer(206, part, ETag=etag, Content_Range=shown, **headers)


Respond = Callable[[Request], Awaitable[None]]


@dataclass
class RawServer:
    """Answers with `respond`; keeps count of requests, body ranges and open connections."""

    respond: Respond
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    most_connections: int = 0

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self.tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def uri(self, path: str, query: str = "") -> StorageUri:
        return parse_uri(f"http://127.0.0.1:{self.port}/{path}{query}")

    async def idle(self, connections: int = 0) -> None:
        """Wait until no more than so many connections are open."""
        async with asyncio.timeout(2):
            async with self._changed:
                await self._changed.wait_for(lambda: self.connections <= connections)

    def gets(self) -> list[Request]:
        return [request for request in self.requests if request.method == "GET"]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.most_connections = max(self.most_connections, self.connections)
        try:
            while request := await self._read(reader, writer):
                self.requests.append(request)
                await self.respond(request)
                if writer.is_closing():
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.connections -= 1
            self._tasks.discard(task)
            writer.close()
            async with self._changed:
                self._changed.notify_all()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    @staticmethod
    async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.strip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        return Request(method, target, headers, reader, writer)


def lists(content: bytes) -> Respond:
    """Answer every request well."""

    async def respond(request: Request) -> None:
        await request.serve(content)

    return respond


def point_s3(monkeypatch: pytest.MonkeyPatch, server: RawServer) -> None:
    """Have S3 URIs go to a server, with a key that it need not know."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


def s3_page(*keys: tuple[str, int], next_token: int | None = None) -> bytes:
    """Return a page of a listing: keys and sizes, and where the next page is, if there is one."""
    more = (
        "<IsTruncated>false</IsTruncated>"
        if next_token is None
        else "<IsTruncated>true</IsTruncated>"
        f"<NextContinuationToken>{next_token}</NextContinuationToken>"
    )
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>{size}</Size><ETag>&quot;1&quot;</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        for key, size in keys
    )
    page = f"<ListBucketResult>{more}{contents}</ListBucketResult>"
    return f'<?xml version="1.0"?>{page}'.encode()
