"""HTTP client for model servers: calls bounded in time and size, and a ping that detects restarts.

A call ends in one of three ways: an answer with any status, ServerGone (connection refused), or
ServerInDoubt (the server accepts connections, but gives no readable answer in time). Each driver
decides what a status means. `get_json` covers the common case: GET, status 200, JSON of an expected
shape, else ServerInDoubt. An answer may hold any JSON or none, so code that takes a document apart
catches all of `MALFORMED`.

Idle connections are closed after two seconds. Every server keeps them longer (uvicorn: 5), so a
call never uses a connection that the server is just closing. A ping has a connection of its own,
which stays open as long as the server allows. If that connection had to be opened again, the
process behind it may be another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, Generic, TypeVar

import aiohttp
from yarl import URL

from trainedmodel_puller.drivers.base import (
    OBSERVE_TIMEOUT_S,
    ServerGone,
    ServerHungUp,
    ServerInDoubt,
)
from trainedmodel_puller.errors import printable

T = TypeVar("T")

_KEPT_S: Final = 2.0
#: Longer answers are not read. An index of ten thousand models takes one MiB.
MOST_BYTES: Final = 16 * 1024 * 1024
_MAX_WORDS: Final = 300
#: Fields of an error body that may have its text; SGLang has the last one.
_ERROR_FIELDS: Final = ("error", "detail", "message", "error_message")
#: Errors of code that takes a document of the wrong shape apart.
MALFORMED: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class JsonShape(Generic[T]):
    """How to read one kind of JSON document.

    Attributes:
        name: Name of the document for messages, such as "model index".
        read: Takes the parsed document apart. For a document of another shape it raises one of
            `MALFORMED`.
    """

    name: str
    read: Callable[[Any], T]


class ServerClient:
    """Speaks HTTP to one address of a model server.

    Args:
        kind: The driver's kind, for messages.
        url: Such as `http://127.0.0.1:8080`.
    """

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.url = str(URL(url)).rstrip("/")
        self._calls: aiohttp.ClientSession | None = None
        self._pings: aiohttp.ClientSession | None = None
        self._is_new_connection = False

    async def close(self) -> None:
        """Close the connections."""
        for session in (self._calls, self._pings):
            if session is not None:
                await session.close()
        self._calls = self._pings = None

    async def call(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: dict[str, Any] | None = None,
        params: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Make one call. Without a body it sends no content type: TorchServe fails on one.

        Raises:
            ServerGone: connection refused.
            ServerInDoubt: no whole answer within `timeout_s`.
        """
        if self._calls is None:
            connector = aiohttp.TCPConnector(limit=16, keepalive_timeout=_KEPT_S)
            self._calls = _make_session(connector)
        return await self._request(self._calls, method, path, timeout_s, body=body, params=params)

    async def get_json(
        self,
        path: str,
        shape: JsonShape[T],
        timeout_s: float = 2 * OBSERVE_TIMEOUT_S,
        params: dict[str, str] | None = None,
    ) -> T:
        """GET a document and read it.

        Raises:
            ServerGone: connection refused.
            ServerInDoubt: no answer in time, another status than 200, or a malformed document.
        """
        status, body = await self.call("GET", path, timeout_s, params=params)
        return self.read_json(path, status, body, shape)

    async def find_json(
        self, path: str, shape: JsonShape[T], timeout_s: float = OBSERVE_TIMEOUT_S
    ) -> T | None:
        """Do the same as `get_json`, but return None for the status 404."""
        status, body = await self.call("GET", path, timeout_s)
        return None if status == 404 else self.read_json(path, status, body, shape)

    def read_json(self, path: str, status: int, body: bytes, shape: JsonShape[T]) -> T:
        """Read an answer that should be 200 with a document.

        Raises:
            ServerInDoubt: another status, or a malformed document.
        """
        if status != 200:
            raise self.unexpected(path, status, body)
        return self.parse(body, shape)

    def parse(self, body: bytes, shape: JsonShape[T]) -> T:
        """Read a document.

        Raises:
            ServerInDoubt: it is malformed.
        """
        try:
            return shape.read(parsed(body))
        except MALFORMED as error:
            raise ServerInDoubt(f"{self.kind} returned a malformed {shape.name}") from error

    def unexpected(self, path: str, status: int, body: bytes = b"") -> ServerInDoubt:
        """Return the doubt that a status of a path causes."""
        said = words(body)
        return ServerInDoubt(f"{self.kind} returned {status} for {path}{said and f': {said}'}")

    async def ping(self, path: str, timeout_s: float = OBSERVE_TIMEOUT_S) -> tuple[int, bool]:
        """GET a path; return the status, and whether the connection was still the last one.

        Raises:
            ServerGone: connection refused.
            ServerInDoubt: no whole answer within `timeout_s`.
        """
        if self._pings is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_create_end.append(self._note_new_connection)
            connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=3600)
            self._pings = _make_session(connector, trace)
        self._is_new_connection = False
        status, _ = await self._request(self._pings, "GET", path, timeout_s)
        return status, not self._is_new_connection

    async def _note_new_connection(
        self,
        _session: aiohttp.ClientSession,
        _context: SimpleNamespace,
        _made: aiohttp.TraceConnectionCreateEndParams,
    ) -> None:
        self._is_new_connection = True

    async def _request(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        timeout_s: float,
        *,
        body: dict[str, Any] | None = None,
        params: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=OBSERVE_TIMEOUT_S)
        try:
            async with session.request(
                method,
                URL(self.url + path, encoded=True),
                json=body,
                params=params,
                timeout=limits,
                allow_redirects=False,
            ) as response:
                answer = await _whole_body(response)
                if len(answer) > MOST_BYTES:
                    raise ServerInDoubt(
                        f"{self.kind} returned more than {MOST_BYTES // 2**20} MiB for {path}"
                    )
                return response.status, answer
        except aiohttp.ClientConnectorError as error:
            raise ServerGone(f"{self.kind} at {self.url} refuses connections") from error
        except TimeoutError as error:
            raise ServerInDoubt(
                f"{self.kind} did not answer {path} within {timeout_s:.0f} s"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ServerHungUp(
                f"{self.kind} closed the connection before it answered {path}"
            ) from error


def _make_session(
    connector: aiohttp.TCPConnector, *traces: aiohttp.TraceConfig
) -> aiohttp.ClientSession:
    """Make a session that decompresses nothing: a small answer must not become a large one."""
    return aiohttp.ClientSession(
        connector=connector,
        trace_configs=list(traces),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
    )


async def _whole_body(response: aiohttp.ClientResponse) -> bytes:
    """Read an answer to its end, or until it is longer than `MOST_BYTES`."""
    parts: list[bytes] = []
    left = MOST_BYTES
    async for part in response.content.iter_any():
        parts.append(part)
        left -= len(part)
        if left < 0:
            break
    return b"".join(parts)


def parsed(body: bytes | str) -> Any:
    """Return the JSON value of an answer.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def as_list(value: Any) -> list[Any]:
    """Return a part of a document that must be a list.

    Without this check an empty object or text would read as a list without rows.

    Raises:
        TypeError: it is not a list.
    """
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def words(body: bytes) -> str:
    """Return the useful part of an error body for people, at most 300 characters.

    A body is JSON, plain text or a traceback. MLServer sends all three.
    """
    text = body.decode("utf-8", "replace").strip()
    try:
        document = parsed(text)
        if isinstance(document, dict):
            said = next((document[key] for key in _ERROR_FIELDS if document.get(key)), None)
            text = str((said.get("message") if isinstance(said, dict) else said) or text)
    except (ValueError, RecursionError):
        pass
    return telling(text)


def telling(text: str) -> str:
    """Return the most useful line of an error text, shortened and printable."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" ;\n")]
    if len(lines) > 1 and any("Traceback" in line for line in lines):
        # A wrapped traceback: the first words name the error, the last exception its cause.
        head = lines[0].split("Traceback", 1)[0].strip(" :")
        cause = next((ln for ln in reversed(lines) if _is_exception(ln)), lines[-1])
        text = cause if not head or head in cause else f"{head}: {cause}"
    elif lines:
        text = lines[0]
    shown = text[:_MAX_WORDS].encode("utf-8", "replace").decode()
    return printable(shown)


def _is_exception(line: str) -> bool:
    head = line.split(":", 1)[0]
    return head.replace(".", "").replace("_", "").isalnum() and head[:1].isalpha() and ":" in line
