"""llama.cpp's `llama-server` in router mode: quirks measured on b10434.

It must run with `--models-dir` on the served folder and without `-m`; `--models-max 0` is advised.

- A model is a folder with a GGUF file in it, and the folder's name is its id. Of several files the
  server takes the first of the alphabet. So `prepare` requires one model, in one file or in all its
  parts.
- The server reads the folder only at its start and at `GET /models?reload=1`. A reload unloads at
  once a loaded model whose *file name* changed, but not one whose content changed. So `prepare`
  gives the file a name that is the same in each revision.
- A load returns 200 at once, also for a corrupt file. The status says `loading`, then `loaded`, or
  `unloaded` with `failed`. The cause is only in the server's log. The next reload clears the
  failure.
- A load of a loaded model is 400, and a replaced file is not noticed. So an update is unload and
  load, which is a gap. Measured with a model of 120 KB: 0.05-0.15 s. While requests are being
  answered, the gap is longer by the server's `stop-timeout` (10 s unless its presets say less).
  Those requests get 500 and 400. Without `--no-models-autoload` some wait instead, and load the new
  file themselves.
- A broken update does not cause that gap. The new files are loaded first under `<name>..probe`, a
  link to the folder. So two copies are in memory for a moment. An entry's parameter `prove=false`
  skips that step.
- Beyond `--models-max` (4 by default) a load silently unloads the least recently used model. Models
  that do not fit would then replace each other for ever. So the driver refuses a load that would
  unload another model.
- Without `--no-models-autoload` any request loads a model again that was just unloaded. If clients
  keep sending requests, the unload fails with that cause.
- Dot folders and links are listed as models. Names that are no model names are ignored.
- Unload of an unknown model, or of one that is not loaded, is 400. `/health` is 200 in any state of
  the models.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainedmodel_contract.entry import Entry
from trainedmodel_contract.names import is_model_name
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.layouts import gguf_names, refuse_gguf
from trainedmodel_puller.core.shape import Shape
from trainedmodel_puller.core.state import ServerState
from trainedmodel_puller.drivers.base import (
    OBSERVE_TIMEOUT_S,
    Observation,
    ServerSettings,
    Target,
)
from trainedmodel_puller.drivers.client import MALFORMED, JsonShape, as_list, parsed, words
from trainedmodel_puller.drivers.driver import HttpDriver
from trainedmodel_puller.errors import ServerFault

_POLL_S: Final = 0.05
_PROBE: Final = "..probe"
#: Parameter of an entry: whether an update loads the new files beside the old ones first.
PROVE: Final = "prove"
_STATES: Final = {
    "loaded": ServerState.READY,
    "sleeping": ServerState.READY,
    "loading": ServerState.LOADING,
    "downloading": ServerState.LOADING,
    "unloaded": ServerState.ABSENT,
}


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of the model list. `process` differs from one start of a model to the next."""

    state: ServerState
    exit_code: int | None
    process: str

    @property
    def has_failed(self) -> bool:
        return self.exit_code is not None


class Llama(HttpDriver):
    """One llama-server in router mode."""

    kind = "llama"
    max_loads = 2
    ping_path = "/health"

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        #: Held from counting the loaded models until the load call, which may take the last slot.
        self._places = asyncio.Lock()
        self._is_swept = False

    def check_layout(self, shape: Shape, entry: Entry) -> str | None:
        """Require one .gguf model, in one file or in all its parts."""
        return refuse_gguf(shape)

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Check that there is one model, and rename its files.

        Raises:
            ServerFault: InvalidLayout; none, several, or parts are missing.
        """
        shape = self._checked_shape(tree, entry)
        names = {old: new for old, new in gguf_names(shape).items() if old != new}
        for old, new in names.items():
            (tree / old).rename(tree / new)
        return bool(names)

    # -- observing ----------------------------------------------------------------------

    async def observe(self, names: Collection[str]) -> Observation:
        """Read the list. It has the loaded models, independent of the folder's content."""
        rows = await self._models()
        return Observation(
            {
                name: row.state
                for name, row in rows.items()
                if row.state is not ServerState.ABSENT and is_model_name(name)
            }
        )

    async def _models(self, *, is_reload: bool = False) -> dict[str, _Row]:
        params = {"reload": "1"} if is_reload else None
        return await self._client.get_json("/models", _MODEL_LIST, params=params)

    # -- acting -------------------------------------------------------------------------

    async def load(self, target: Target) -> None:
        """Load, or unload and load again, and wait until the status is `loaded`."""
        name = target.name
        deadline = time.monotonic() + self._action_timeout_s
        await self._sweep()
        rows = await self._models(is_reload=True)
        if name not in rows:
            raise ServerFault(
                Reason.LOAD_FAILED,
                f"{self.kind} does not list the model: set its --models-dir to "
                f"{self._served_dir} (the puller's --server-model-dir)",
            )
        if rows[name].state is ServerState.ABSENT:
            async with self._places:
                await self._start(name, "this load would unload another one")
        else:
            if (target.entry.parameters or {}).get(PROVE) != "false":
                await self._prove(name, deadline)
            async with self._places:  # No other load may take the slot in between.
                if await self._end(name) is ServerState.ABSENT:
                    await self._start(name, "another one took the slot")
        await self._see_loaded(name, deadline)

    async def _prove(self, name: str, deadline: float) -> None:
        """Load the new files beside the old ones for a moment.

        Raises:
            ServerFault: LoadFailed or LoadTimeout; the old files keep serving.
        """
        link = self._model_dir / f"{name}{_PROBE}"
        await asyncio.to_thread(_make_link, link, name)
        try:
            await self._models(is_reload=True)
            async with self._places:
                await self._start(
                    link.name,
                    "an update needs a free slot to test the new files first (the parameter "
                    f"{PROVE}=false skips the test, but then a broken update stops the model)",
                )
            await self._see_loaded(link.name, deadline)
        finally:
            await asyncio.to_thread(link.unlink, missing_ok=True)
            # Reading the folder again also unloads the probe, whose link is gone.
            await self._models(is_reload=True)

    async def _start(self, name: str, cause: str) -> None:
        """Send the load call if a slot is free; `_places` must be held."""
        if await self._free_places(name) == 0:
            raise ServerFault(
                Reason.SERVER_FULL,
                f"{self.kind} has reached its limit of models (--models-max "
                f"{await self._limit()}), and {cause}: raise the limit (0 means none), or remove "
                "a model",
            )
        status, body = await self._client.call(
            "POST", "/models/load", self._action_timeout_s, {"model": name}
        )
        # 400: the model runs already, because a request has loaded it.
        if status not in {200, 400}:
            raise ServerFault(
                Reason.LOAD_FAILED, f"{self.kind} refused the load ({status}): {words(body)}"
            )

    async def _free_places(self, name: str) -> int | None:
        """Return how many more models may be loaded; None means no limit."""
        limit = await self._limit()
        if limit is None:
            return None
        rows = await self._models()
        taken = [
            other
            for other, row in rows.items()
            if other != name and row.state is not ServerState.ABSENT
        ]
        return max(0, limit - len(taken))

    async def _limit(self) -> int | None:
        status, body = await self._client.call("GET", "/props", OBSERVE_TIMEOUT_S)
        try:
            limit = int(parsed(body)["max_instances"]) if status == 200 else 0
        except MALFORMED:
            limit = 0  # Some releases do not report it.
        return limit or None

    async def _see_loaded(self, name: str, deadline: float) -> None:
        while time.monotonic() < deadline:
            row = (await self._models()).get(name)
            if row is None or row.has_failed:
                code = "gone from the list" if row is None else f"exit code {row.exit_code}"
                raise ServerFault(
                    Reason.LOAD_FAILED,
                    f"{self.kind} could not load the model ({code}); see the log of llama-server",
                )
            if row.state is ServerState.READY:
                return
            if row.state is ServerState.ABSENT:
                raise ServerFault(
                    Reason.LOAD_FAILED, f"{self.kind} unloaded the model during the load"
                )
            await asyncio.sleep(_POLL_S)
        raise ServerFault(
            Reason.LOAD_TIMEOUT, f"not loaded {self._action_timeout_s:.0f} s after the load call"
        )

    async def unload(self, name: str) -> None:
        """Unload, and wait until the status confirms it."""
        if await self._end(name) is not ServerState.ABSENT:
            raise ServerFault(
                Reason.UNLOAD_FAILED,
                f"a request made {self.kind} load it again: run it with --no-models-autoload",
            )

    async def _end(self, name: str) -> ServerState:
        """Stop a model's process and return its state; a request may have started it again."""
        before = (await self._models()).get(name)
        status, body = await self._client.call(
            "POST", "/models/unload", self._action_timeout_s, {"model": name}
        )
        deadline = time.monotonic() + self._action_timeout_s
        while True:
            row = (await self._models()).get(name)
            if row is None or row.state is ServerState.ABSENT:
                return ServerState.ABSENT
            if before is None or row.process != before.process:
                return row.state
            if status != 200:
                raise ServerFault(
                    Reason.UNLOAD_FAILED,
                    f"{self.kind} refused the unload ({status}): {words(body)}",
                )
            if time.monotonic() > deadline:
                raise ServerFault(
                    Reason.UNLOAD_FAILED, f"{self.kind} still has it after the unload"
                )
            await asyncio.sleep(_POLL_S)

    async def _sweep(self) -> None:
        """Remove the links that a killed puller has left."""
        if not self._is_swept:
            await asyncio.to_thread(_remove_links, self._model_dir)
            self._is_swept = True


def _read_rows(document: Any) -> dict[str, _Row]:
    return {str(row["id"]): _read_status(row["status"]) for row in as_list(document["data"])}


def _read_status(status: Mapping[str, Any]) -> _Row:
    exit_code = status.get("exit_code") if status.get("failed") else None
    arguments = [str(word) for word in status.get("args", [])]
    # Each start gets another port.
    port = arguments.index("--port") + 1 if "--port" in arguments else len(arguments)
    return _Row(_STATES[status["value"]], exit_code, "".join(arguments[port : port + 1]))


_MODEL_LIST: Final = JsonShape(
    "model list (llama-server must run in router mode: --models-dir, without -m)", _read_rows
)


def _make_link(link: Path, name: str) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(name)


def _remove_links(folder: Path) -> None:
    for path in folder.glob(f"*{_PROBE}"):
        if path.is_symlink():
            path.unlink()
