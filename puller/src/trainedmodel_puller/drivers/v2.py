"""The model repository extension of the v2 protocol, as Triton, MLServer and KServe speak it.

This module has the common part: `POST /v2/repository/index`, `/load`, `/unload`, and
`GET /v2/models/N/ready`. The drivers of the three servers have the differences: how to force a
reload, the meaning of an unload, and the required files.

Measured on Triton and MLServer:

- The index is read from disk. A loaded model whose folder is gone is not in it, and still serves.
  So the readiness of each wanted name that the index lacks is read by itself.
- Error bodies are JSON, plain text, or a traceback. `client.words` finds the useful line.
- A time-out of the client does not cancel a load: both servers finish it. So after a time-out
  readiness is polled. An update is an exception, because the old model is ready all the time.
- `/v2/health/ready` turns bad while any model loads, or after one failed. Only `/live` is used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Any, Final

from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.state import ServerState
from trainedmodel_puller.drivers.base import (
    OBSERVE_TIMEOUT_S,
    Observation,
    ServerHungUp,
    ServerInDoubt,
    ServerSettings,
    Target,
)
from trainedmodel_puller.drivers.client import JsonShape, as_list, words
from trainedmodel_puller.drivers.driver import HttpDriver
from trainedmodel_puller.errors import ServerFault

INDEX_PATH: Final = "/v2/repository/index"

_POLL_S: Final = 0.1
#: Time limit of one load call, in seconds. After it, readiness is polled.
_CALL_TIMEOUT_S: Final = 120.0
#: How long readiness may stay unknown after a load, in seconds.
_BUSY_S: Final = 60.0
#: How many readiness requests run at once.
_ASK_AT_ONCE: Final = 8


class RepositoryServer(HttpDriver):
    """The common part of the drivers for Triton, MLServer and KServe."""

    kind = "v2"
    max_loads = 4
    #: `/v2/health/ready` turns bad whenever a model loads.
    ping_path = "/v2/health/live"

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        self._index_body = b"[]"
        self._index: dict[str, ServerState | None] = {}

    # -- observing ----------------------------------------------------------------------

    async def observe(self, names: Collection[str]) -> Observation:
        """Read liveness and the index, then the readiness of each name that the index lacks."""
        await self.ping()
        status, body = await self._client.call("POST", INDEX_PATH, 2 * OBSERVE_TIMEOUT_S, {})
        return await self._observation(status, body, names)

    async def _observation(self, status: int, body: bytes, names: Collection[str]) -> Observation:
        if status != 200:
            raise self._client.unexpected(INDEX_PATH, status, body)
        states = self._read_index(body)
        # Without a state in the index, only readiness shows whether the model is in memory.
        unsure = [name for name in names if states.get(name) is None]
        states.update(dict.fromkeys(await self._ready_ones(unsure), ServerState.READY))
        return Observation({name: state for name, state in states.items() if state is not None})

    def _read_index(self, body: bytes) -> dict[str, ServerState | None]:
        if body != self._index_body:  # It is long with thousands of models, and seldom changes.
            self._index = self._client.parse(body, JsonShape("model index", self._index_states))
            self._index_body = body
        return dict(self._index)

    def _index_states(self, document: Any) -> dict[str, ServerState | None]:
        states: dict[str, ServerState | None] = {}
        for row in as_list(
            document
        ):  # One row for each version: a name is ready if one of them is.
            name, state = str(row["name"]), self._state(row)
            if states.get(name) is not ServerState.READY:
                states[name] = state
        return states

    def _state(self, row: Mapping[str, Any]) -> ServerState | None:
        return _INDEX_STATES.get(str(row.get("state", "")).upper())

    async def _ready_ones(self, names: list[str]) -> list[str]:
        """Return the ready names, a few requests at a time: after a restart all are unsure."""
        ready: list[str] = []
        for start in range(0, len(names), _ASK_AT_ONCE):
            some = names[start : start + _ASK_AT_ONCE]
            asked = (self._is_ready(name) for name in some)
            for name, answer in zip(
                some, await asyncio.gather(*asked, return_exceptions=True), strict=True
            ):
                if isinstance(answer, BaseException):
                    raise answer
                if answer:
                    ready.append(name)
        return ready

    async def _is_ready(self, name: str) -> bool:
        path = f"/v2/models/{name}/ready"
        status, _ = await self._client.call("GET", path, OBSERVE_TIMEOUT_S)
        if not self._is_ready_answer(status):
            raise self._client.unexpected(path, status)
        return status == 200

    def _is_ready_answer(self, status: int) -> bool:
        """Return whether a status says if a model is ready."""
        return status < 500

    # -- acting -------------------------------------------------------------------------

    async def load(self, target: Target) -> None:
        """Load by name, and wait until the server reports that the model is ready."""
        name = target.name
        deadline = time.monotonic() + self._action_timeout_s
        body = self._load_body(target.entry)
        # Readiness proves a load only if the model was not ready before. In an update the old
        # revision is ready all the time, so the answer to the call is the only proof.
        is_update = target.is_serving
        timeout_s = self._action_timeout_s if is_update else _CALL_TIMEOUT_S
        try:
            status, answer = await self._client.call(
                "POST", f"/v2/repository/models/{name}/load", timeout_s, body
            )
        except ServerHungUp as error:
            # This model may have crashed the server: a failure, with backoff, and not doubt.
            raise ServerFault(Reason.LOAD_FAILED, f"{error} during the load") from error
        except ServerInDoubt as error:
            if is_update:
                raise ServerFault(
                    Reason.LOAD_TIMEOUT,
                    f"{error}; it is not known whether it serves the old or the new revision",
                ) from error
            await self._poll_ready(name, deadline)
            return
        if status != 200:
            raise ServerFault(Reason.LOAD_FAILED, self._refusal(status, answer))
        if not await self._is_ready_soon(name):
            raise ServerFault(
                Reason.LOAD_FAILED,
                f"{self.kind} returned 200 for the load, but the model is not ready",
            )

    def _refusal(self, status: int, body: bytes) -> str:
        """Return the message of a refused load."""
        return f"{self.kind} refused the load ({status}): {words(body)}"

    def _load_body(self, entry: Entry) -> dict[str, Any]:
        return {}

    async def _poll_ready(self, name: str, deadline: float) -> None:
        while time.monotonic() < deadline:
            await asyncio.sleep(10 * _POLL_S)
            try:
                if await self._is_ready(name):
                    return
            except ServerInDoubt:
                continue  # Some servers answer no request during a load.
        raise ServerFault(
            Reason.LOAD_TIMEOUT, f"not ready {self._action_timeout_s:.0f} s after the load call"
        )

    async def _is_ready_soon(self, name: str) -> bool:
        """Return whether the model is ready after a successful load.

        A server that is busy with other loads may not answer in time. A doubt would stop all loads
        until the next observation, so the request is repeated for a minute.
        """
        patient_until = time.monotonic() + _BUSY_S
        for _ in range(10):
            while True:
                try:
                    is_ready = await self._is_ready(name)
                    break
                except ServerInDoubt:
                    if time.monotonic() > patient_until:
                        raise
                    await asyncio.sleep(10 * _POLL_S)
            if is_ready:
                return True
            await asyncio.sleep(_POLL_S)
        return False

    async def unload(self, name: str) -> None:
        """Unload by name, and wait until the server no longer has the model."""
        status, answer = await self._client.call(
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


_INDEX_STATES: Final[dict[str, ServerState | None]] = {
    "READY": ServerState.READY,
    "LOADING": ServerState.LOADING,
    "UNLOADING": ServerState.UNLOADING,
    "UNAVAILABLE": ServerState.ABSENT,
}
