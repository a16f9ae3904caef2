"""The management API of Multi Model Server and of TorchServe, its descendant.

The common part: `POST /models` registers a folder under a name and starts its workers.
`GET /models` lists the registered models, and `GET /models/N` describes the workers of one.
`DELETE /models/N` unregisters it. The two drivers have the differences: the steps of an update, and
the address of a folder.

Measured on both (MMS 1.1.11, TorchServe 0.12):

- A folder with `MAR-INF/MANIFEST.json` is registered without an archive. `prepare` writes that file
  if the handler is known. If the manifest names only a module (`handler.py`), both servers take its
  function `handle`, or the only class of the module.
- A second registration of a name is 409, also with other files in the folder. So each revision has
  its own folder (layout per revision), and the URL of the registration proves which revision
  serves.
- Registered does not mean ready: one worker must be READY. A worker that is starting (TorchServe),
  or that crashes repeatedly, is UNLOADING. Such a model counts as loading for half a minute, then
  as absent. Then it is registered again, and its failure is reported. Describing hundreds of models
  takes seconds. So an observation describes only the models that are not known to be ready, and a
  few of the others in turn.
- With `synchronous=true` the answer comes when the workers are up. A worker that fails causes a 500
  without a cause, and the registration is removed. Only the server's log has the cause.
- A time-out of the client cancels nothing. So no call is sent twice, and the workers are polled.
- A page of the list has at most 100 names and starts at a *number*. If a model goes between two
  pages, another one may be missing. So the wanted names that are on none of several pages are read
  by themselves.
- Unknown parameters, and values that should be numbers and are not, are silently ignored.
- `POST` with a content type and without a body is a 500 on TorchServe. The driver sends no content
  type.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from trainedmodel_contract.entry import Entry
from trainedmodel_contract.names import is_model_name
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.shape import Shape
from trainedmodel_puller.core.state import Layout, ServerState
from trainedmodel_puller.drivers.base import (
    Observation,
    ServerHungUp,
    ServerInDoubt,
    ServerSettings,
    Target,
)
from trainedmodel_puller.drivers.client import JsonShape, as_list, words
from trainedmodel_puller.drivers.driver import HttpDriver
from trainedmodel_puller.drivers.manifest import check_manifest, fit_manifest
from trainedmodel_puller.errors import ServerFault

T = TypeVar("T")
Json = dict[str, Any]

POLL_S: Final = 0.1
#: Time limit of one call, in seconds. After it, the model's own state is polled.
CALL_TIMEOUT_S: Final = 120.0
#: Suffix of the name of a probe; served names never hold two dots in a row.
PROBE: Final = "..probe"
#: How long a registered model without a ready worker counts as loading, in seconds.
_STARTING_S: Final = 30.0
#: How long after a successful load the list may show no ready worker, in seconds.
_SAYS_SO_S: Final = 5.0
_ASK_AT_ONCE: Final = 8
#: How many of the models known to be ready are described again at each observation.
_ASK_AGAIN: Final = 16
_PAGE: Final = 100
_MOST_PAGES: Final = 1000
#: Parameters that an entry may not set.
_RESERVED: Final = frozenset({"url", "model_name", "synchronous"})


class ManagementServer(HttpDriver):
    """The common part of the drivers for Multi Model Server and TorchServe."""

    kind = "management"
    max_loads = 2
    layout = Layout.PER_REVISION
    #: One row of the model list: `/ping` is at the other address.
    ping_path = "/models?limit=1"
    #: Time limit of the registration call, in seconds. After it, the workers are polled.
    call_timeout_s = CALL_TIMEOUT_S

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        #: URL by name of the models that were seen READY, the oldest observation first.
        self._seen_ready: dict[str, str] = {}
        self._starting_since: dict[str, float] = {}
        #: Name and revision of failed loads. Such a registration may have other files.
        self._unproven: set[tuple[str, str]] = set()

    def check_layout(self, shape: Shape, entry: Entry) -> str | None:
        """Require a manifest, or the files to make one."""
        return check_manifest(shape, entry)

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Check for `MAR-INF/MANIFEST.json`, or make it for a `handler.py` and one weights file.

        Raises:
            ServerFault: InvalidLayout; there is none and none can be made.
        """
        fit_manifest(tree, entry)
        return True

    def _address(self, path: Path) -> str:
        """Return the parameter `url` for a tree."""
        raise NotImplementedError

    def _address_of(self, name: str, revision: str) -> str:
        return self._address(self._served_dir / name / self.folder_name(revision))

    # -- observing ----------------------------------------------------------------------

    async def observe(self, names: Collection[str]) -> Observation:
        """Read the list, then the workers of the models that are not known to be ready."""
        registered, is_paged = await self._list()
        if is_paged:
            missed = [name for name in names if name not in registered]
            for name, seen in (await self._ask_all(missed)).items():
                if seen is not None:
                    registered[name] = str(seen.get("modelUrl"))
        self._forget_all_but(registered)
        unsure = [name for name in registered if name not in self._seen_ready]
        again = list(islice(self._seen_ready, _ASK_AGAIN))
        details = await self._ask_all([*unsure, *again])
        states: dict[str, ServerState] = {}
        for name, url in registered.items():
            states[name] = ServerState.READY
            if name in details:
                states[name] = self._judge(name, url, details[name])
        revisions = {name: self._revision_of(name, url) for name, url in registered.items()}
        return Observation(
            {name: state for name, state in states.items() if state is not ServerState.ABSENT},
            revisions,
        )

    def _forget_all_but(self, registered: Mapping[str, str]) -> None:
        for name in [name for name, url in self._seen_ready.items() if registered.get(name) != url]:
            del self._seen_ready[name]
        for name in [name for name in self._starting_since if name not in registered]:
            del self._starting_since[name]

    def _judge(self, name: str, url: str, seen: Json | None) -> ServerState:
        self._seen_ready.pop(name, None)
        if seen is not None and has_ready_worker(seen):
            self._seen_ready[name] = url
            self._starting_since.pop(name, None)
            return ServerState.READY
        if seen is None or not workers_of(seen):
            return ServerState.ABSENT
        since = self._starting_since.setdefault(name, time.monotonic())
        is_patient = time.monotonic() - since < _STARTING_S
        return ServerState.LOADING if is_patient else ServerState.ABSENT

    def _revision_of(self, name: str, url: str) -> str:
        """Return the revision of a URL; empty if the puller did not make the folder."""
        revision = url.rpartition("/")[2]
        return revision if url == self._address_of(name, revision) else ""

    async def _list(self) -> tuple[dict[str, str], bool]:
        """Return the URL of each registered name, and whether it took several pages."""
        listed: dict[str, str] = {}
        params = {"limit": str(_PAGE)}
        is_paged = False
        for _ in range(_MOST_PAGES):
            page, token = await self._client.get_json("/models", _MODEL_LIST, params=params)
            listed.update(page)
            if token is None or token == params.get("next_page_token"):
                break
            params["next_page_token"] = token
            is_paged = True
        else:
            raise ServerInDoubt(
                f"{self.kind} returned a model list of more than {_MOST_PAGES} pages"
            )
        # A name that no model can have was registered by others.
        return {name: url for name, url in listed.items() if is_model_name(name)}, is_paged

    async def _ask_all(self, names: Iterable[str]) -> dict[str, Json | None]:
        gate = asyncio.Semaphore(_ASK_AT_ONCE)

        async def ask(name: str) -> tuple[str, Json | None]:
            async with gate:
                versions = await self._describe(name)
            return name, versions[0] if versions else None

        return dict(await asyncio.gather(*(ask(name) for name in names)))

    async def _describe(self, name: str, version: str = "") -> list[Json]:
        """Return the description of a name's version, or of its default version."""
        path = f"/models/{name}/{version}" if version else f"/models/{name}"
        shape = JsonShape(f"description of model {name!r}", _read_descriptions)
        return await self._client.find_json(path, shape) or []

    # -- acting -------------------------------------------------------------------------

    async def load(self, target: Target) -> None:
        """Register the revision, and return when the name serves it."""
        key = (target.name, target.revision)
        deadline = time.monotonic() + self._action_timeout_s
        try:
            await self._bring_up(target, deadline)
        except BaseException:
            self._unproven.add(key)
            raise
        self._unproven.discard(key)
        self._seen_ready[target.name] = self._address(target.path)

    async def _bring_up(self, target: Target, deadline: float) -> None:
        raise NotImplementedError

    def _is_proven(self, target: Target, seen: Json) -> bool:
        """Return whether the registered model is the target and serves."""
        return (
            seen["modelUrl"] == self._address(target.path)
            and has_ready_worker(seen)
            and (target.name, target.revision) not in self._unproven
        )

    async def _register(
        self, name: str, url: str, deadline: float, parameters: Mapping[str, str], version: str = ""
    ) -> None:
        """Register a folder, and return when a worker is ready.

        Raises:
            ServerFault: LoadFailed or LoadTimeout.
        """
        params = {
            "initial_workers": "1",
            **{key: value for key, value in parameters.items() if key not in _RESERVED},
            "url": url,
            "model_name": name,
            "synchronous": "true",
        }
        timeout_s = min(self.call_timeout_s, max(deadline - time.monotonic(), 1.0))
        try:
            status, body = await self._client.call("POST", "/models", timeout_s, params=params)
        except ServerHungUp as error:
            raise ServerFault(Reason.LOAD_FAILED, f"{error} during the load") from error
        except ServerInDoubt:
            await self._poll_ready(name, version, deadline)
            return
        if status not in {200, 202}:
            raise ServerFault(Reason.LOAD_FAILED, self._refusal(status, words(body)))
        # TorchServe answers a moment before its list shows the worker.
        believed_until = time.monotonic() + _SAYS_SO_S
        while True:
            seen = await self._describe(name, version)
            if seen and has_ready_worker(seen[0]):
                return
            if time.monotonic() > believed_until:
                raise ServerFault(
                    Reason.LOAD_FAILED,
                    f"{self.kind} returned {status} for the load but has no ready worker",
                )
            await asyncio.sleep(POLL_S)

    def _refusal(self, status: int, said: str) -> str:
        hint = ""
        if status >= 500:
            hint = " (only the server's log has the cause)"
        elif status == 404:
            hint = f" (--server-model-dir must be its model store, but is {self._served_dir})"
        return f"{self.kind} refused the load ({status}): {said}{hint}"

    async def _poll_ready(self, name: str, version: str, deadline: float) -> None:
        while time.monotonic() < deadline:
            await asyncio.sleep(10 * POLL_S)
            try:
                seen = await self._describe(name, version)
            except ServerInDoubt:
                continue
            if not seen:
                raise ServerFault(
                    Reason.LOAD_FAILED,
                    f"{self.kind} removed the registration after more than "
                    f"{self.call_timeout_s:.0f} s, because its workers did not start "
                    "(only the server's log has the cause)",
                )
            if has_ready_worker(seen[0]):
                return
        raise ServerFault(
            Reason.LOAD_TIMEOUT,
            f"no worker is ready {self._action_timeout_s:.0f} s after the load call",
        )

    async def _unregister(self, name: str, version: str = "") -> None:
        """Unregister, and return when the model is gone. An unknown name is no error."""
        await self._call_unregister(name, version)
        deadline = time.monotonic() + self._action_timeout_s
        while await self._describe(name, version):
            if time.monotonic() > deadline:
                raise ServerFault(
                    Reason.UNLOAD_FAILED, f"{self.kind} still has it after the unload"
                )
            await asyncio.sleep(POLL_S)

    async def _call_unregister(self, name: str, version: str = "") -> None:
        path = f"/models/{name}/{version}" if version else f"/models/{name}"
        status, body = await self._client.call("DELETE", path, CALL_TIMEOUT_S)
        if status not in {200, 202, 404}:
            raise ServerFault(
                Reason.UNLOAD_FAILED, f"{self.kind} refused the unload ({status}): {words(body)}"
            )


def _read_page(document: Any) -> tuple[dict[str, str], str | None]:
    rows = as_list(document["models"])
    page = {str(row["modelName"]): str(row["modelUrl"]) for row in rows}
    token = document.get("nextPageToken")
    return page, None if token is None else str(token)


_MODEL_LIST: Final = JsonShape("model list", _read_page)


def _read_descriptions(document: Any) -> list[Json]:
    rows = document if isinstance(document, list) else [document]
    if not all(map(_is_description, rows)):
        raise TypeError("no workers")
    return rows


def _is_description(row: Json) -> bool:
    workers: object = row["workers"]
    is_list = isinstance(workers, list) and all(isinstance(worker, dict) for worker in workers)
    return is_list and isinstance(row["modelUrl"], str) and bool(row["modelUrl"])


def workers_of(seen: Json) -> list[Any]:
    """Return the rows of a model's workers."""
    workers: list[Any] = seen["workers"]
    return workers


def has_ready_worker(seen: Json) -> bool:
    """Return whether a worker of a model is ready."""
    return any(worker.get("status") == "READY" for worker in workers_of(seen))
