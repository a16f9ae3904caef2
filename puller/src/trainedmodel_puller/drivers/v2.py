"""The model repository extension of the v2 protocol, as Triton and MLServer both speak it.

Common ground only: `POST /v2/repository/index`, `/load`, `/unload`, `GET /v2/models/N/ready`. What
differs (how a reload is forced, what an unload means, what the files must look like) is in the two
drivers beside.

Measured on both, and so handled here:

- the index is read from disk: a loaded model whose folder is gone is not in it and goes on serving.
  Names of interest that the index lacks are asked for one by one;
- error bodies are JSON, plain text, or a traceback; the last telling line is what people need;
- a client's time-out does not cancel a load (both finish it after the client has gone), so on a
  time-out readiness is polled; but not in an update, where the old model is ready all along;
- `/v2/health/ready` turns bad while any model loads or after one failed; only `/live` is asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.state import ServerState
from trainedmodel_puller.drivers.base import (
    ACTION_TIMEOUT_S,
    OBSERVE_TIMEOUT_S,
    ServerGone,
    ServerHungUp,
    ServerInDoubt,
)
from trainedmodel_puller.errors import ServerFault

_POLL_S: Final = 0.1
#: One load call is waited for at most this long; then readiness is polled instead.
_CALL_TIMEOUT_S: Final = 120.0
_MAX_BODY: Final = 64 * 1024 * 1024
_MAX_WORDS: Final = 300


class RepositoryServer:
    """What Triton and MLServer have in common.

    Args:
        url: Such as `http://127.0.0.1:8080`.
        action_timeout_s: How long a load or unload may take in all.
    """

    kind = "v2"
    max_loads = 4

    def __init__(self, url: str, action_timeout_s: float = ACTION_TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        self._action_timeout_s = action_timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Let go of connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def prepare(self, tree: Path, entry: Entry) -> None:
        """Accept any layout; the drivers know better."""

    def touch(self, tree: Path) -> None:
        """Do nothing: the server reloads on demand."""

    # -- observing ----------------------------------------------------------------------

    async def ping(self) -> None:
        """Ask for liveness; readiness is lost whenever a model loads."""
        status, _ = await self._call("GET", "/v2/health/live", OBSERVE_TIMEOUT_S)
        if status != 200:
            raise ServerInDoubt(f"{self.kind} answers {status} on /v2/health/live")

    async def observe(self, names: Collection[str]) -> Mapping[str, ServerState]:
        """Ask for liveness and the index, then for each name that the index lacks."""
        await self.ping()
        status, body = await self._call("POST", "/v2/repository/index", 2 * OBSERVE_TIMEOUT_S, {})
        if status != 200:
            raise ServerInDoubt(
                f"{self.kind} answers {status} on /v2/repository/index: {words(body)}"
            )
        states = self._read_index(body)
        # in the index without a state, or not there at all: the files say nothing of the memory
        unsure = [name for name in names if states.get(name) is None]
        for name in unsure:
            if await self._is_ready(name):
                states[name] = ServerState.READY
        return {name: state for name, state in states.items() if state is not None}

    def _read_index(self, body: bytes) -> dict[str, ServerState | None]:
        try:
            rows = json.loads(body)
            if not isinstance(rows, list):
                raise TypeError("not a list")
            pairs = [(str(row["name"]), self._state(row)) for row in rows]
        except (ValueError, TypeError, KeyError) as error:
            raise ServerInDoubt(f"{self.kind} answers with an index that makes no sense") from error
        states: dict[str, ServerState | None] = {}
        for name, state in pairs:  # a row for each version: the best one serves
            if states.get(name) is not ServerState.READY:
                states[name] = state
        return states

    def _state(self, row: Mapping[str, Any]) -> ServerState | None:
        return _INDEX_STATES.get(str(row.get("state", "")).upper())

    async def _is_ready(self, name: str) -> bool:
        status, _ = await self._call("GET", f"/v2/models/{name}/ready", OBSERVE_TIMEOUT_S)
        if status >= 500:
            raise ServerInDoubt(f"{self.kind} answers {status} on /v2/models/{name}/ready")
        return status == 200

    # -- acting -------------------------------------------------------------------------

    async def load(self, name: str, entry: Entry | None) -> None:
        """Load by name and wait for the server's own word that it is ready."""
        deadline = time.monotonic() + self._action_timeout_s
        body = self._load_body(entry)
        # readiness proves a load only of a model that was not ready before: in an update the old
        # revision is ready all along, so there the call's own answer is the only proof
        is_update = await self._is_ready(name)
        timeout_s = self._action_timeout_s if is_update else _CALL_TIMEOUT_S
        try:
            status, answer = await self._call(
                "POST", f"/v2/repository/models/{name}/load", timeout_s, body
            )
        except ServerHungUp as error:
            # it may have died of this very model: that is a failure, with backoff, not a doubt
            raise ServerFault(Reason.LOAD_FAILED, f"{error} during the load") from error
        except ServerInDoubt as error:
            if is_update:
                raise ServerFault(
                    Reason.LOAD_TIMEOUT, f"{error}; which revision it serves is not known"
                ) from error
            await self._poll_ready(name, deadline)
            return
        if status != 200:
            raise ServerFault(
                Reason.LOAD_FAILED, f"{self.kind} refused the load ({status}): {words(answer)}"
            )
        if not await self._is_ready_soon(name):
            raise ServerFault(
                Reason.LOAD_FAILED,
                f"{self.kind} answered 200 to the load but does not call the model ready",
            )

    def _load_body(self, entry: Entry | None) -> dict[str, Any]:
        return {}

    async def _poll_ready(self, name: str, deadline: float) -> None:
        while time.monotonic() < deadline:
            await asyncio.sleep(10 * _POLL_S)
            try:
                if await self._is_ready(name):
                    return
            except ServerInDoubt:
                continue  # some servers answer nothing at all while they load
        raise ServerFault(
            Reason.LOAD_TIMEOUT, f"not ready {self._action_timeout_s:.0f} s after the load call"
        )

    async def _is_ready_soon(self, name: str) -> bool:
        for _ in range(10):
            if await self._is_ready(name):
                return True
            await asyncio.sleep(_POLL_S)
        return False

    async def unload(self, name: str) -> None:
        """Unload by name and wait until the server no longer has it."""
        status, answer = await self._call(
            "POST", f"/v2/repository/models/{name}/unload", _CALL_TIMEOUT_S, {}
        )
        if status not in {200, 404}:
            raise ServerFault(
                Reason.UNLOAD_FAILED, f"{self.kind} refused the unload ({status}): {words(answer)}"
            )
        deadline = time.monotonic() + self._action_timeout_s
        while not await self._is_gone(name):
            if time.monotonic() > deadline:
                raise ServerFault(
                    Reason.UNLOAD_FAILED, f"{self.kind} still has it after the unload"
                )
            await asyncio.sleep(_POLL_S)

    async def _is_gone(self, name: str) -> bool:
        return not await self._is_ready(name)

    # -- speaking -----------------------------------------------------------------------

    async def _call(
        self, method: str, path: str, timeout_s: float, body: dict[str, Any] | None = None
    ) -> tuple[int, bytes]:
        """Make one call.

        Raises:
            ServerGone: connection refused.
            ServerInDoubt: no whole answer within the time.
        """
        if self._session is None:
            # a kept connection would turn each restart of the server into one failed call
            connector = aiohttp.TCPConnector(force_close=True, limit=16)
            self._session = aiohttp.ClientSession(connector=connector)
        limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=OBSERVE_TIMEOUT_S)
        try:
            async with self._session.request(
                method, self.url + path, json=body, timeout=limits, allow_redirects=False
            ) as response:
                return response.status, await response.content.read(_MAX_BODY)
        except aiohttp.ClientConnectorError as error:
            raise ServerGone(f"{self.kind} at {self.url} refuses connections") from error
        except TimeoutError as error:
            raise ServerInDoubt(
                f"{self.kind} did not answer {path} within {timeout_s:.0f} s"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ServerHungUp(f"{self.kind} dropped the connection of {path}") from error


_INDEX_STATES: Final[dict[str, ServerState | None]] = {
    "READY": ServerState.READY,
    "LOADING": ServerState.LOADING,
    "UNLOADING": ServerState.UNLOADING,
    "UNAVAILABLE": ServerState.ABSENT,
}


def words(body: bytes) -> str:
    """Return what a person needs of an error body: its last telling line, cut to 300 characters."""
    text = body.decode("utf-8", "replace").strip()
    try:
        document = json.loads(text)
        if isinstance(document, dict):
            text = str(document.get("error") or document.get("detail") or text)
    except ValueError:
        pass
    lines = [line.strip() for line in text.splitlines() if line.strip(" ;\n")]
    if len(lines) > 1 and any("Traceback" in line for line in lines):
        # an error that wraps a traceback: its first words say what, its last exception says why
        head = lines[0].split("Traceback", 1)[0].strip(" :")
        why = next((ln for ln in reversed(lines) if _is_exception(ln)), lines[-1])
        text = why if not head or head in why else f"{head}: {why}"
    elif lines:
        text = lines[0]
    return text[:_MAX_WORDS]


def _is_exception(line: str) -> bool:
    head = line.split(":", 1)[0]
    return head.replace(".", "").replace("_", "").isalnum() and head[:1].isalpha() and ":" in line
