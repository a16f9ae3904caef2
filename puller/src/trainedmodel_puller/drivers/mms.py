"""Multi Model Server: quirks measured on 1.1.11.

It has one version of a name only, and refuses a second registration (409) whatever the folder holds
by now. So an update has a gap: unregister, register. It is kept as small as it can be:

- the new files prove themselves first, registered for a moment under `<name>..probe` (two copies
  are in memory then). What fails there has not touched the old model;
- only then the name is unregistered and at once registered anew. From that call on requests are
  queued, not refused, until the worker is up;
- should the second registration fail after all, the old files are registered again.

Measured with four clients that never paused, in four updates: 26 of 1,400 requests were refused
(404, 503), all within 40 ms of each other in each update; the others waited for the new worker; and
3 that had been queued for the old one were never answered, so clients need a time-out. In the same
test TorchServe lost none: where this matters, use that.

And beyond the update:

- A worker says READY from its start on, while its model is still loading: only the answer to the
  registration proves a load, so it is waited for to the end. A registration that is found (of a
  puller that was killed while it loaded) is proven by a trial of the same files beside it.
- It registers a folder *relative* to its model store; an absolute one is 404.
- While a worker starts that cannot start, other management calls may hang: in doubt, not down.
- A name with a leading `-` makes the worker's command line invalid and the server hang: ours never
  have one, and the probe's sign is at the end.
- On SIGTERM it leaves its Python workers behind; in a container that is the same as leaving none.
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
        #: URL by name of what this object has seen come up.
        self._brought_up: dict[str, str] = {}

    def _address(self, path: Path) -> str:
        return path.relative_to(self._served_dir).as_posix()

    async def _bring_up(self, target: Target, deadline: float) -> None:
        name, url = target.name, self._address(target.path)
        parameters = target.entry.parameters or {}
        # of a puller that was killed in an update
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
        """Register the files for a moment, under a name that nobody asks for."""
        try:
            await self._register(name + PROBE, url, deadline, parameters)
        finally:
            with contextlib.suppress(ServerInDoubt):
                await self._unregister(name + PROBE)

    async def _replace(
        self, name: str, url: str, old: Json, deadline: float, parameters: Mapping[str, str]
    ) -> None:
        # no look at the list between these two: it would only make the gap longer
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
                f"{fault.message}; and the old model could not be brought back: {second.message}",
            ) from fault

    async def _poll_ready(self, name: str, version: str, deadline: float) -> None:
        raise ServerFault(
            Reason.LOAD_TIMEOUT,
            f"no answer to the load within {self._action_timeout_s:.0f} s; whether {name!r} is "
            "ready, this server does not tell",
        )

    async def unload(self, name: str) -> None:
        """Unregister the name, and its probe if a killed puller left one."""
        self._brought_up.pop(name, None)
        await self._unregister(name + PROBE)
        await self._unregister(name)


def _count_in(seen: Json, field: str, usual: int) -> int:
    count = seen.get(field)
    return count if isinstance(count, int) and 0 <= count < 2**31 else usual
