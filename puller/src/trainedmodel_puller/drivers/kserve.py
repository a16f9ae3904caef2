"""KServe's `ModelServer` (custom predictors): quirks measured on 0.21.

- It has the v2 paths, but its index route is 404. `GET /v2/models` lists the models in memory, so
  it serves as the index, and the readiness of each name completes it. If a server has the index,
  the driver uses that. It remembers which of the two it found.
- Any failed load is 503 with the text of the exception, also for an unknown name. The old instance
  keeps serving. A load always loads again.
- Unload of a model that is not loaded is 404.
- `/ready` of a registered model that is not ready is 503. That is an answer, not doubt.
- A load that computes (rather than awaits) blocks all endpoints for that time. Then the server is
  in doubt, not down.
- The content of a model's folder depends on the model's class, so nothing is prepared.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from trainedmodel_contract.names import is_model_name

from trainedmodel_puller.core.state import ServerState
from trainedmodel_puller.drivers.base import (
    OBSERVE_TIMEOUT_S,
    Observation,
    ServerInDoubt,
    ServerSettings,
)
from trainedmodel_puller.drivers.client import JsonShape, as_list
from trainedmodel_puller.drivers.v2 import INDEX_PATH, RepositoryServer


class KServe(RepositoryServer):
    """One KServe model server."""

    kind = "kserve"

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        self._has_index = True

    async def observe(self, names: Collection[str]) -> Observation:
        """Read the index; if there is none, the models in memory and the readiness of each."""
        await self.ping()
        if self._has_index:
            status, body = await self._client.call("POST", INDEX_PATH, 2 * OBSERVE_TIMEOUT_S, {})
            if status != 404:
                return await self._observation(status, body, names)
            self._has_index = False
        try:
            listed = await self._client.get_json("/v2/models", _MODEL_LIST)
        except ServerInDoubt:
            self._has_index = True  # another server may have started at this address
            raise
        return Observation(dict.fromkeys(await self._ready_ones(listed), ServerState.READY))

    def _is_ready_answer(self, status: int) -> bool:
        return status < 500 or status == 503


def _read_models(document: Any) -> list[str]:
    listed = as_list(document["models"])
    return [name for name in listed if isinstance(name, str) and is_model_name(name)]


_MODEL_LIST: Final = JsonShape("model list", _read_models)
