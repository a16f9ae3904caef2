"""Multi Model Server: quirks measured on 1.1.11.

It has only one version of a name, and refuses a second registration (409), also with other files in
the folder. So an update is unregister and register, which is a gap. The driver keeps it short:

- The new files are first registered for a moment under `<name>..probe`. Two copies are in memory
  then. A failure of the probe does not affect the old model.
- Then the name is unregistered and registered again at once. From that call on requests are queued,
  not refused, until the worker is up.
- If the second registration fails, the old files are registered again.

Measured in four updates with four clients that never paused: 26 of 1,400 requests were refused
(404, 503), in each update all within 40 ms. The others waited for the new worker. Three requests
that were queued for the old worker were never answered, so clients need a time-out. TorchServe lost
no request in the same test. Use it if this matters.

Other quirks:

- A worker is READY from its start, while its model is still loading. Only the answer to the
  registration proves a load, so the driver waits for it until the time limit of the load. A
  registration by an earlier puller process may be of an interrupted load. A probe with the same
  files proves it.
- It registers a folder *relative* to its model store. An absolute path is 404.
- While a worker fails to start, other management calls may hang. Then the server is in doubt, not
  down.
- A name with a leading `-` makes the worker's command line invalid, and the server hangs. Served
  names have none, and the suffix of a probe is at the end.
- On SIGTERM it leaves its Python workers running. In a container they end with it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from pathlib import Path

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.drivers.base import ServerInDoubt, ServerSettings, Target
from trainedmodel_puller.drivers.management import (
    PROBE,
    Json,
    ManagementServer,
    has_ready_worker,
)
from trainedmodel_puller.errors import ServerFault


class MultiModelServer(ManagementServer):
    """One Multi Model Server, at its management address."""

    kind = "mms"
    call_timeout_s = math.inf

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        #: URL by name of the registrations that this object has proven.
        self._brought_up: dict[str, str] = {}

    def _address(self, path: Path) -> str:
        return path.relative_to(self._served_dir).as_posix()

    async def _bring_up(self, target: Target, deadline: float) -> None:
        name, url = target.name, self._address(target.path)
        parameters = target.entry.parameters or {}
        # Left by a puller that was killed in an update.
        await self._unregister(name + PROBE)
        found = await self._describe(name)
        if found and self._is_proven(target, found[0]):
            if self._brought_up.get(name) != url:
                await self._try(name, url, deadline, parameters)
            self._brought_up[name] = url
            return
        self._brought_up.pop(name, None)
        if not found or not has_ready_worker(found[0]):
            await self._unregister(name)
            await self._register(name, url, deadline, parameters)
        else:
            await self._try(name, url, deadline, parameters)
            await self._replace(name, url, found[0], deadline, parameters)
        self._brought_up[name] = url

    async def _try(
        self, name: str, url: str, deadline: float, parameters: Mapping[str, str]
    ) -> None:
        """Register the files for a moment, under the name of a probe."""
        try:
            await self._register(name + PROBE, url, deadline, parameters)
        finally:
            with contextlib.suppress(ServerInDoubt):
                await self._unregister(name + PROBE)

    async def _replace(
        self, name: str, url: str, old: Json, deadline: float, parameters: Mapping[str, str]
    ) -> None:
        # No other call in between: it would only extend the gap.
        await self._call_unregister(name)
        try:
            await self._register(name, url, deadline, parameters)
        except ServerFault as fault:
            await self._bring_back(name, old, fault)
            raise

    async def _bring_back(self, name: str, old: Json, fault: ServerFault) -> None:
        deadline = time.monotonic() + self._action_timeout_s
        parameters = {
            "initial_workers": str(max(1, _count_in(old, "minWorkers", 1))),
            "batch_size": str(_count_in(old, "batchSize", 1)),
            "max_batch_delay": str(_count_in(old, "maxBatchDelay", 100)),
        }
        await self._unregister(name)
        try:
            await self._register(name, str(old["modelUrl"]), deadline, parameters)
        except ServerFault as second:
            raise ServerFault(
                Reason.LOAD_FAILED,
                f"{fault.message}; the old model could not be loaded again: {second.message}",
            ) from fault

    async def _poll_ready(self, name: str, version: str, deadline: float) -> None:
        raise ServerFault(
            Reason.LOAD_TIMEOUT,
            f"no answer to the load within {self._action_timeout_s:.0f} s, and mms does not report "
            f"whether {name!r} is ready",
        )

    async def unload(self, name: str) -> None:
        """Unregister the name, and the probe that a killed puller may have left."""
        self._brought_up.pop(name, None)
        await self._unregister(name + PROBE)
        await self._unregister(name)


def _count_in(seen: Json, field: str, usual: int) -> int:
    count = seen.get(field)
    return count if isinstance(count, int) and 0 <= count < 2**31 else usual
