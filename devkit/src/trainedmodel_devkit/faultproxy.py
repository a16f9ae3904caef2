"""A proxy before a real API server that goes wrong on order.

What it passes on is the real thing, streams included, byte by byte as it comes; what it does wrong
is programmed while it runs, from any thread:

    with FaultProxy(control_plane) as proxy:
        operator_config = proxy.kubeconfig(real_config, folder)
        with proxy.failing(answering(429, retry_after="1"), where=is_write, every=3):
            ...
        with proxy.refusing_connections():
            ...
        proxy.freeze_watches()

Faults are deterministic: "a third" is every third request that matches, never chance. Of several
that match, the one that was ordered last counts. Every request is noted, with who sent it and what
it was answered, so tests can count what a program sends while all goes wrong.

It listens on loopback with the API server's own certificate and key, so a kubeconfig differs in the
port only (kubectl sends no token over plain HTTP); credentials pass through.
"""

import asyncio
import contextlib
import itertools
import json
import re
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
import yaml
from aiohttp import web

from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.ports import free_port

T = TypeVar("T")

#: Longest wait for something that the loop does at once, in seconds.
_SOON_S = 20
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "upgrade"}
_PATH = re.compile(
    r"/(?:api/v1|apis/[^/]+/[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<subresource>.+))?)?"
)


@dataclass
class Request:
    """One request as the proxy saw it; `status` is 0 until it is answered, or if it never was."""

    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    user_agent: str
    path: str
    status: int = 0

    @property
    def kind(self) -> str:
        """The resource, with its subresource after a slash."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


#: What becomes of a request: None passes it on after all.
Fault = Callable[[Request], Awaitable[web.Response | None]]


def is_write(request: Request) -> bool:
    """Tell whether a request changes something."""
    return request.verb in {"create", "update", "patch", "delete"}


def answering(status: int, *, retry_after: str | None = None, message: str = "so ordered") -> Fault:
    """Answer with this status instead of the API server."""
    body = {"kind": "Status", "apiVersion": "v1", "code": status, "message": message}
    headers = {} if retry_after is None else {"Retry-After": retry_after}

    async def answer(_: Request) -> web.Response:
        return web.json_response(body, status=status, headers=headers)

    return answer


def delaying(seconds: float) -> Fault:
    """Pass a request on late."""

    async def delay(_: Request) -> None:
        await asyncio.sleep(seconds)

    return delay


@dataclass
class _Order:
    fault: Fault
    where: Callable[[Request], bool]
    every: int
    hits: "itertools.count[int]" = field(default_factory=itertools.count)


@dataclass(eq=False)
class _Stream:
    """A watch that is being passed on."""

    request: Request
    to_client: web.StreamResponse
    transport: asyncio.Transport | None
    upstream: aiohttp.ClientResponse
    is_frozen: bool = False
    is_over: bool = False


class FaultProxy:
    """The proxy; a context manager with an event loop of its own, in a thread."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._upstream = control_plane.server
        self._ca_file = control_plane.ca_file
        self._orders: list[_Order] = []
        self._streams: set[_Stream] = set()
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.requests: list[Request] = []

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._do(self._open())
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._do(self._close())
        finally:
            self._end_loop()

    def kubeconfig(self, real: Path, folder: Path) -> Path:
        """Write a copy of a kubeconfig that leads through the proxy."""
        content = yaml.safe_load(real.read_text())
        for cluster in content["clusters"]:
            cluster["cluster"]["server"] = self.url
        path = folder / f"through-proxy.{real.name}"
        path.write_text(yaml.safe_dump(content))
        path.chmod(0o600)
        return path

    @contextlib.contextmanager
    def failing(
        self, fault: Fault, *, where: Callable[[Request], bool] = lambda _: True, every: int = 1
    ) -> Iterator[None]:
        """Do this to every n-th request that matches, the first included, while it lasts."""
        order = _Order(fault, where, every)
        self._orders.append(order)
        try:
            yield
        finally:
            self._orders.remove(order)

    @contextlib.contextmanager
    def refusing_connections(self) -> Iterator[None]:
        """Hang up on everybody, and let nobody in while it lasts."""
        self._do(self._shut())
        try:
            yield
        finally:
            self._do(self._listen())

    def watches(self, resource: str | None = None) -> list[Request]:
        """Return the watches that are open and alive."""
        return [
            stream.request
            for stream in list(self._streams)
            if _is_live(stream) and resource in (None, stream.request.resource)
        ]

    def cut_watches(self) -> int:
        """Break the connection of every open watch; return how many there were."""
        return self._do(self._cut())

    def freeze_watches(self) -> int:
        """Let every watch that is open now say nothing more, for ever, though it stays open.

        As when a firewall forgets a connection: neither side is told. New watches are passed on.
        """
        live = [stream for stream in list(self._streams) if _is_live(stream)]
        for stream in live:
            stream.is_frozen = True
        return len(live)

    def inject(self, code: int, resource: str | None = None) -> int:
        """Put an ERROR of this code into the open watches, and close them; return how many."""
        return self._do(self._inject(code, resource))

    def count(
        self,
        *,
        verb: str | None = None,
        kind: str | None = None,
        user_agent: str = "",
        where: Callable[[Request], bool] = lambda _: True,
    ) -> int:
        """Count the requests so far, by what is given (of the user agent, a part is enough)."""
        return sum(
            verb in (None, one.verb)
            and kind in (None, one.kind)
            and user_agent in one.user_agent
            and where(one)
            for one in list(self.requests)
        )

    # -- in the loop ----------------------------------------------------------------------------

    async def _open(self) -> None:
        context = ssl.create_default_context(cafile=str(self._ca_file))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )
        application = web.Application(client_max_size=16 * 2**20)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            application, access_log=None, shutdown_timeout=1, handler_cancellation=True
        )
        await self._runner.setup()
        await self._listen()

    async def _close(self) -> None:
        await self._cut()
        await self._runner.cleanup()
        await self._session.close()
        await asyncio.sleep(0.1)  # TLS connections end a moment after they were closed

    async def _listen(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._ca_file, self._ca_file.with_suffix(".key"))
        self._site = web.TCPSite(
            self._runner, "127.0.0.1", self.port, ssl_context=context, reuse_address=True
        )
        await self._site.start()

    async def _shut(self) -> None:
        await self._site.stop()
        server = self._runner.server
        for connection in [] if server is None else server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def _handle(self, incoming: web.Request) -> web.StreamResponse:
        request = _read(incoming)
        self.requests.append(request)
        for order in reversed(self._orders):
            if order.where(request) and next(order.hits) % order.every == 0:
                answer = await order.fault(request)
                if answer is not None:
                    request.status = answer.status
                    return answer
                break
        try:
            return await self._pass_on(incoming, request)
        except aiohttp.ClientError as error:
            request.status = 502
            return web.json_response({"kind": "Status", "message": str(error)}, status=502)

    async def _pass_on(self, incoming: web.Request, request: Request) -> web.StreamResponse:
        async with self._session.request(
            incoming.method,
            f"{self._upstream}{incoming.raw_path}",
            headers=_to_pass_on(incoming.headers),
            data=await incoming.read() or None,
            allow_redirects=False,
        ) as upstream:
            request.status = upstream.status
            outgoing = web.StreamResponse(
                status=upstream.status, headers=_to_pass_on(upstream.headers)
            )
            if request.verb != "watch":
                body = await upstream.read()
                outgoing.content_length = len(body)
                await outgoing.prepare(incoming)
                await outgoing.write(body)
                return outgoing
            await outgoing.prepare(incoming)
            stream = _Stream(request, outgoing, incoming.transport, upstream)
            self._streams.add(stream)
            try:
                await self._stream(stream)
            finally:
                self._streams.discard(stream)
            return outgoing

    async def _stream(self, stream: _Stream) -> None:
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            async for piece in stream.upstream.content.iter_any():
                if _is_live(stream):
                    await stream.to_client.write(piece)
        if stream.is_frozen:
            await asyncio.Event().wait()  # until the client has gone

    async def _cut(self) -> int:
        streams = list(self._streams)
        for stream in streams:
            if stream.transport is not None:
                stream.transport.abort()
        return len(streams)

    async def _inject(self, code: int, resource: str | None) -> int:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        line = json.dumps({"type": "ERROR", "object": {**status, "message": "so ordered"}})
        count = 0
        for stream in list(self._streams):
            if _is_live(stream) and resource in (None, stream.request.resource):
                stream.is_over = True
                with contextlib.suppress(ConnectionError):
                    await stream.to_client.write(line.encode() + b"\n")
                    count += 1
                stream.upstream.close()
        return count

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_SOON_S)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SOON_S)
        self._loop.close()


def _is_live(stream: _Stream) -> bool:
    return not (stream.is_frozen or stream.is_over)


def _to_pass_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}


def _read(incoming: web.Request) -> Request:
    """Read what a request is, as an API server's audit log would put it."""
    match = _PATH.match(incoming.path)
    parts = match.groupdict(default="") if match is not None else {}
    name = parts.get("name", "")
    verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
    verb = verbs.get(incoming.method, "get" if name else "list")
    if incoming.query.get("watch") in {"true", "1"}:
        verb = "watch"
    return Request(
        verb=verb,
        resource=parts.get("resource", ""),
        subresource=parts.get("subresource", ""),
        namespace=parts.get("namespace", ""),
        name=name,
        user_agent=incoming.headers.get("User-Agent", ""),
        path=incoming.path_qs,
    )
