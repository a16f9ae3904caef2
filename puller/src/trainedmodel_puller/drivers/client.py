"""HTTP to a model server: calls with limits on everything, and a sign of life that knows a restart.

What a caller learns is one of three things: an answer (any status), ServerGone (nobody listens) or
ServerInDoubt (somebody listens and does not answer, or not so that it could be read). Each driver
says what a status means. An answer is JSON of any shape or none: `parsed` reads it, and whoever
takes it apart calls all of `NONSENSE` a doubt.

Connections are kept for two seconds, less than any of the servers keeps them (uvicorn: 5), so that
a call never meets one that is just being closed. The sign of life is asked over a connection of its
own, kept as long as the server likes: one that had to be made anew says that the process behind it
may be another one.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
from yarl import URL

from trainedmodel_puller.drivers.base import (
    OBSERVE_TIMEOUT_S,
    ServerGone,
    ServerHungUp,
    ServerInDoubt,
)
from trainedmodel_puller.errors import printable

_KEPT_S: Final = 2.0
#: No answer is longer: an index of ten thousand models takes one MiB.
MOST_BYTES: Final = 16 * 1024 * 1024
_MAX_WORDS: Final = 300
#: What taking an answer of the wrong shape apart raises.
NONSENSE: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


class ServerClient:
    """Speaks HTTP to one address of a model server.

    Args:
        kind: Name of the server's dialect, for messages.
        url: Such as `http://127.0.0.1:8080`.
    """

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.url = str(URL(url)).rstrip("/")
        self._calls: aiohttp.ClientSession | None = None
        self._pings: aiohttp.ClientSession | None = None
        self._is_new_connection = False

    async def close(self) -> None:
        """Let go of connections."""
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
        """Make one call; without a body no content type is sent (TorchServe fails on that).

        Raises:
            ServerGone: connection refused.
            ServerInDoubt: no whole answer within `timeout_s`.
        """
        if self._calls is None:
            connector = aiohttp.TCPConnector(limit=16, keepalive_timeout=_KEPT_S)
            self._calls = _make_session(connector)
        return await self._request(self._calls, method, path, timeout_s, body=body, params=params)

    async def ping(self, path: str, timeout_s: float = OBSERVE_TIMEOUT_S) -> tuple[int, bool]:
        """Ask for a sign of life; return its status, and whether the connection was the same.

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
                        f"{self.kind} answers {path} with more than {MOST_BYTES // 2**20} MiB"
                    )
                return response.status, answer
        except aiohttp.ClientConnectorError as error:
            raise ServerGone(f"{self.kind} at {self.url} refuses connections") from error
        except TimeoutError as error:
            raise ServerInDoubt(
                f"{self.kind} did not answer {path} within {timeout_s:.0f} s"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ServerHungUp(f"{self.kind} dropped the connection of {path}") from error


def _make_session(
    connector: aiohttp.TCPConnector, *traces: aiohttp.TraceConfig
) -> aiohttp.ClientSession:
    """Make a session that unpacks nothing: a small answer must not become a large one."""
    return aiohttp.ClientSession(
        connector=connector,
        trace_configs=list(traces),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
    )


async def _whole_body(response: aiohttp.ClientResponse) -> bytes:
    """Read an answer to its end, or until it is too long."""
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
        ValueError: it is none, or is nested so deeply that it cannot be read.
    """
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def words(body: bytes) -> str:
    """Return what a person needs of an error body: its last telling line, cut to 300 characters.

    Bodies are JSON, plain text or a traceback, also of one server (MLServer sends all three).
    """
    text = body.decode("utf-8", "replace").strip()
    try:
        document = parsed(text)
        if isinstance(document, dict):
            said = document.get("error") or document.get("detail") or document.get("message")
            text = str((said.get("message") if isinstance(said, dict) else said) or text)
    except (ValueError, RecursionError):
        pass
    return telling(text)


def telling(text: str) -> str:
    """Return the telling line of what a server said, cut, and safe to be shown."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" ;\n")]
    if len(lines) > 1 and any("Traceback" in line for line in lines):
        # an error that wraps a traceback: its first words say what, its last exception says why
        head = lines[0].split("Traceback", 1)[0].strip(" :")
        why = next((ln for ln in reversed(lines) if _is_exception(ln)), lines[-1])
        text = why if not head or head in why else f"{head}: {why}"
    elif lines:
        text = lines[0]
    shown = text[:_MAX_WORDS].encode("utf-8", "replace").decode()
    return printable(shown)


def _is_exception(line: str) -> bool:
    head = line.split(":", 1)[0]
    return head.replace(".", "").replace("_", "").isalnum() and head[:1].isalpha() and ":" in line
