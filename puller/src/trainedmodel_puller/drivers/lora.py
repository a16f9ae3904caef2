"""LoRA adapters: the common part of the drivers for vLLM and SGLang.

A server has one base model, and adapters that are loaded and unloaded by name. `load_lora_adapter`
registers a folder, and `unload_lora_adapter` removes the name. `GET /v1/models` lists the
registered adapters, each with its folder (`root`). So the list proves which revision serves, and a
restarted puller needs no stored state.

A registered name cannot be loaded again (400). So an update is unload and load, and requests in
between get 404. To keep that gap short and to survive a broken update, the new revision is first
loaded as a probe, under another name (`<name>..probe-<hex>`; served names never hold two dots).
Only a revision that the server has loaded once replaces the serving one. If the second load fails
nevertheless, the old revision is registered again. The load that made a probe removes it. If the
puller is killed first, the next observation removes the probe, before anything is planned or
deleted.

Both servers read the files of a registered adapter again later. So its folder never changes, and it
stays until the name is unloaded (layout per revision).

Adapters from the server's command line, or registered by others, are never changed. They are
reported as ready. A model with such a name, or with the base model's, is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainedmodel_contract.entry import Entry
from trainedmodel_contract.names import is_model_name
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.layouts import ADAPTER_CONFIG, refuse_adapter
from trainedmodel_puller.core.shape import Shape
from trainedmodel_puller.core.state import Layout, ServerState
from trainedmodel_puller.drivers.base import (
    OBSERVE_TIMEOUT_S,
    Observation,
    ServerGone,
    ServerHungUp,
    ServerInDoubt,
    ServerSettings,
    Target,
)
from trainedmodel_puller.drivers.client import JsonShape, as_list, words
from trainedmodel_puller.drivers.driver import HttpDriver
from trainedmodel_puller.drivers.userfiles import read_user_json
from trainedmodel_puller.errors import ServerFault

#: In the name of a probe, between the served name and eight digits of the revision's hash.
PROBE: Final = "..probe-"

POLL_S: Final = 0.1
#: Time limit of one call, in seconds. After it, the list is polled.
_CALL_TIMEOUT_S: Final = 120.0
#: How long a started swap may delay the puller's stop, in seconds. It takes tens of ms.
_SWAP_GRACE_S: Final = 2.0
#: Parameters that an entry may not set. With `load_inplace`, each request would read the adapter
#: from disk.
_RESERVED: Final = frozenset({"lora_name", "lora_path", "load_inplace"})


@dataclass(frozen=True, slots=True)
class Registered:
    """The models of a server.

    Attributes:
        bases: Names of the base model.
        adapters: Folder of each adapter by name, with the probes.
    """

    bases: frozenset[str]
    adapters: Mapping[str, str]


class AdapterServer(HttpDriver):
    """The common part of the drivers for vLLM and SGLang."""

    kind = "lora"
    max_loads = 2
    layout = Layout.PER_REVISION
    ping_path = "/v1/models"
    load_path = ""
    unload_path = ""

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        #: Probes of running loads. An observation must not remove them.
        self._probing: set[str] = set()

    def check_layout(self, shape: Shape, entry: Entry) -> str | None:
        """Require an adapter's configuration and weights."""
        return refuse_adapter(shape, self.kind)

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Check that the tree is an adapter.

        Raises:
            ServerFault: InvalidLayout; the configuration or the weights are not at the top.
        """
        self._checked_shape(tree, entry)
        read_user_json(tree, ADAPTER_CONFIG)
        return False

    # -- observing ----------------------------------------------------------------------

    async def observe(self, names: Collection[str]) -> Observation:
        """Read the list, and remove the probes that a killed puller has left."""
        await self.ping()
        registered = await self._registered()
        await self._sweep(registered)
        adapters = {name: root for name, root in registered.adapters.items() if is_model_name(name)}
        return Observation(
            dict.fromkeys(adapters, ServerState.READY),
            {name: self._revision_of(name, root) for name, root in adapters.items()},
        )

    async def _registered(self) -> Registered:
        return await self._client.get_json("/v1/models", _MODEL_LIST)

    def _revision_of(self, name: str, root: str) -> str:
        """Return the revision of a folder; empty if the puller did not make the folder."""
        path = Path(root)
        return path.name if path.parent == self._served_dir / name else ""

    async def _sweep(self, registered: Registered, of: str | None = None) -> None:
        """Unregister the probes (of one name) that a killed puller has left."""
        for probe, root in registered.adapters.items():
            name, mark, _ = probe.rpartition(PROBE)
            is_ours = mark and self._revision_of(name, root) and probe not in self._probing
            if is_ours and of in {None, name}:
                try:
                    await self._remove(probe)
                except ServerFault as fault:
                    raise ServerInDoubt(
                        f"a left-over probe of {name} cannot be removed: {fault.message}"
                    ) from fault

    # -- acting -------------------------------------------------------------------------

    async def load(self, target: Target) -> None:
        """Register the revision. It replaces another one if there is one."""
        name, root = target.name, str(target.path)
        deadline = time.monotonic() + self._action_timeout_s
        registered = await self._registered()
        if name in registered.bases:
            raise ServerFault(
                Reason.LOAD_FAILED,
                f"{name!r} is the name of {self.kind}'s base model: set another spec.model.name",
            )
        await self._sweep(registered, of=name)
        old = registered.adapters.get(name)
        if old == root:
            return
        if old is None:
            await self._refuse_if_full(registered)
            await self._add(name, target, deadline)
            return
        if not self._revision_of(name, old):
            raise ServerFault(
                Reason.LOAD_FAILED,
                f"{self.kind} has an adapter of this name from {old}, which is not below "
                f"{self._served_dir / name}: unload that adapter, set another spec.model.name, or "
                "set --server-model-dir to the folder as the server sees it",
            )
        await self._update(target, old, deadline)

    async def _update(self, target: Target, old: str, deadline: float) -> None:
        digest = hashlib.sha256(target.revision.encode()).hexdigest()
        probe = f"{target.name}{PROBE}{digest[:8]}"
        has_room = await self._has_room(await self._registered())
        self._probing.add(probe)
        try:
            if has_room:
                await self._add(probe, target, deadline)
            await _to_its_end(self._swap(target, old, deadline))
        finally:
            # If the server is down or in doubt, the next observation removes the probe.
            with contextlib.suppress(ServerFault, ServerGone, ServerInDoubt, TimeoutError):
                async with asyncio.timeout(OBSERVE_TIMEOUT_S):
                    await self._remove(probe)
            self._probing.discard(probe)

    async def _swap(self, target: Target, old: str, deadline: float) -> None:
        await self._remove(target.name)
        try:
            await self._add(target.name, target, deadline)
        except ServerFault as fault:
            await self._restore(target, old, fault)
            raise

    async def _restore(self, target: Target, old: str, fault: ServerFault) -> None:
        """Register the old revision again; its folder still exists."""
        before = Target(target.name, Path(old).name, Path(old), target.entry)
        try:
            await self._add(target.name, before, time.monotonic() + self._action_timeout_s)
        except ServerFault as second:
            raise ServerFault(
                fault.reason,
                f"{fault.message}; the previous revision could not be loaded again: "
                f"{second.message}",
            ) from second

    async def _add(self, name: str, target: Target, deadline: float) -> None:
        """Register a folder, and return when the list has it.

        Raises:
            ServerFault: LoadFailed or LoadTimeout.
        """
        root = str(target.path)
        own = {k: v for k, v in (target.entry.parameters or {}).items() if k not in _RESERVED}
        timeout_s = min(_CALL_TIMEOUT_S, max(deadline - time.monotonic(), OBSERVE_TIMEOUT_S))
        try:
            status, body = await self._client.call(
                "POST", self.load_path, timeout_s, {**own, "lora_name": name, "lora_path": root}
            )
        except ServerHungUp as error:
            raise ServerFault(Reason.LOAD_FAILED, f"{error} during the load") from error
        except ServerInDoubt:
            await self._poll_listed(name, root, deadline)
            return
        # The list decides, not the answer: another call may have been first.
        is_listed = (await self._registered()).adapters.get(name) == root
        if is_listed:
            return
        if status == 200:
            said = f"{self.kind} returned 200 for the load but does not list the adapter"
        else:
            said = self._refusal(status, body, root)
        raise ServerFault(Reason.LOAD_FAILED, said)

    def _refusal(self, status: int, body: bytes, root: str) -> str:
        """Return the message of a refused load, with the fix."""
        return f"{self.kind} refused the load ({status}): {words(body)}"

    async def _poll_listed(self, name: str, root: str, deadline: float) -> None:
        while time.monotonic() < deadline:
            await asyncio.sleep(10 * POLL_S)
            with contextlib.suppress(ServerInDoubt):
                if (await self._registered()).adapters.get(name) == root:
                    return
        raise ServerFault(
            Reason.LOAD_TIMEOUT,
            f"{self.kind} does not list the adapter {self._action_timeout_s:.0f} s after the load "
            "call",
        )

    async def unload(self, name: str) -> None:
        """Unregister the puller's adapter of a name, and wait until no request uses it."""
        registered = await self._registered()
        await self._sweep(registered, of=name)
        root = registered.adapters.get(name)
        if root is not None and not self._revision_of(name, root):
            return  # registered by others
        if root is not None:
            await self._remove(name)
            if name in (await self._registered()).adapters:
                raise ServerFault(
                    Reason.UNLOAD_FAILED, f"{self.kind} still has it after the unload"
                )
        await self._drain(name)

    async def _remove(self, name: str) -> None:
        """Unregister a name. An unknown name is no error.

        Raises:
            ServerFault: UnloadFailed.
        """
        try:
            status, body = await self._client.call(
                "POST", self.unload_path, _CALL_TIMEOUT_S, {"lora_name": name}
            )
        except ServerHungUp as error:
            raise ServerFault(Reason.UNLOAD_FAILED, f"{error} during the unload") from error
        # In an update this is the gap, so the list is read only if it is needed.
        if status != 200 and name in (await self._registered()).adapters:
            raise ServerFault(
                Reason.UNLOAD_FAILED, f"{self.kind} refused the unload ({status}): {words(body)}"
            )

    # -- differences between the servers ------------------------------------------------

    async def _has_room(self, registered: Registered) -> bool:
        """Return whether one more adapter fits without unloading another one."""
        return True

    async def _refuse_if_full(self, registered: Registered) -> None:
        """Refuse a load that would unload another adapter."""

    async def _drain(self, name: str) -> None:
        """Wait until no earlier request needs the files of a name."""


def _read_models(document: Any) -> Registered:
    rows = as_list(document["data"])
    adapters = {str(row["id"]): str(row["root"]) for row in rows if row.get("parent")}
    bases = frozenset(str(row["id"]) for row in rows if not row.get("parent"))
    return Registered(bases, adapters)


_MODEL_LIST: Final = JsonShape("model list", _read_models)


async def _to_its_end(job: Coroutine[Any, Any, None]) -> None:
    """Await a job that must not stop half-way; a cancel waits for it, up to `_SWAP_GRACE_S`."""
    task = asyncio.ensure_future(job)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=_SWAP_GRACE_S)
        if not task.done():
            task.cancel()
        raise
