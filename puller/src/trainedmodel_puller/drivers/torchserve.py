"""TorchServe: quirks measured on 0.12.

An update has no gap. A second version is registered beside the first; `prepare` has written the
revision into its manifest as the version. When its worker is ready, it becomes the default, and the
others are unregistered. If the new version fails, the old one stays the default. Both are in memory
for a moment. Measured with four clients that never paused: none of 2,488 requests failed in four
updates.

- It registers an *absolute* folder. A path relative to its model store is 404.
- The default version cannot be unregistered while there are others (403), so the others go first.
- Unregistering stops a version's workers at once, with their running requests. So it is done one
  second after the queue is empty. A request that takes longer may be cut off.
- The worker's own limit for a start is 120 s. The driver sets `startup_timeout` to its own limit.
- With one address for both APIs the paths of versions are 404: the management API needs its own.
- Tokens are on by default. It must run with `disable_token_authorization=true` and, for
  registrations at run time, `enable_model_api=true`.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.drivers.base import ServerInDoubt, Target
from trainedmodel_puller.drivers.client import words
from trainedmodel_puller.drivers.management import (
    CALL_TIMEOUT_S,
    POLL_S,
    Json,
    ManagementServer,
)
from trainedmodel_puller.errors import ServerFault

#: How long the queue of a replaced version may take to become empty, in seconds.
_DRAIN_S: Final = 10.0
#: Time for the last request, which leaves the queue before its answer, in seconds.
_LAST_ANSWER_S: Final = 1.0


class TorchServe(ManagementServer):
    """One TorchServe, at its management address."""

    kind = "torchserve"

    def _address(self, path: Path) -> str:
        return str(path)

    async def _bring_up(self, target: Target, deadline: float) -> None:
        name, version = target.name, target.revision
        seen = await self._version(name, version)
        if seen is not None and not self._is_proven(target, seen):
            await self._drop(name, version)
            seen = None
        if seen is None:
            parameters = {
                "startup_timeout": str(round(self._action_timeout_s)),
                **(target.entry.parameters or {}),
            }
            await self._register(name, self._address(target.path), deadline, parameters, version)
        others = await self._others(name, version)
        if others:
            await self._make_default(name, version)
        for other in others:
            await self._drain(name, other)
            await self._unregister(name, other)

    async def unload(self, name: str) -> None:
        """Unregister all versions, the default one last."""
        default = await self._describe(name)
        if default:
            for version in await self._others(name, self._version_of(default[0])):
                await self._unregister(name, version)
        await self._unregister(name)

    async def _version(self, name: str, version: str) -> Json | None:
        found = await self._describe(name, version)
        return found[0] if found else None

    async def _others(self, name: str, version: str) -> list[str]:
        rows = await self._describe(name, "all")
        versions = [self._version_of(row) for row in rows]
        return [other for other in versions if other != version]

    def _version_of(self, row: Json) -> str:
        version = row.get("modelVersion")
        if not isinstance(version, str):
            raise ServerInDoubt(f"{self.kind} returned a model without a version")
        return version

    async def _drop(self, name: str, version: str) -> None:
        """Unregister a version that does not serve. A default version first loses that role."""
        default = await self._describe(name)
        if default and self._version_of(default[0]) == version:
            others = await self._others(name, version)
            if others:
                await self._make_default(name, others[0])
        await self._unregister(name, version)

    async def _make_default(self, name: str, version: str) -> None:
        status, body = await self._client.call(
            "PUT", f"/models/{name}/{version}/set-default", CALL_TIMEOUT_S
        )
        if status != 200:
            raise ServerFault(
                Reason.LOAD_FAILED,
                f"{self.kind} refused to make the new version the default ({status}): "
                f"{words(body)}",
            )

    async def _drain(self, name: str, version: str) -> None:
        deadline = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline:
            seen = await self._version(name, version)
            queue = None if seen is None else seen.get("jobQueueStatus")
            if not isinstance(queue, dict) or not queue.get("pendingRequests"):
                break
            await asyncio.sleep(POLL_S)
        await asyncio.sleep(_LAST_ANSWER_S)
