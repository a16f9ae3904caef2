"""KServe's `ModelServer` (custom predictors): quirks measured on 0.21.

- It speaks the v2 paths, but its index route is 404: `GET /v2/models` names what is in memory, so
  that is the index, and each name's own readiness says the rest. A server that does have the index
  is asked for it; which one it is, is remembered.
- Any failed load is 503, an unknown name included, with the exception's words; the old instance
  goes on serving. A load always loads again.
- Unload of what is not loaded is 404.
- A registered model that is not ready is 503 on `/ready`: an answer, not a doubt.
- A load that computes (rather than awaits) silences all endpoints meanwhile: in doubt, not down.
- What a model's folder must hold is its class's affair: nothing is prepared.
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
        """Ask for the index; where there is none, for the models in memory and each one's state."""
        await self.ping()
        if self._has_index:
            status, body = await self._client.call("POST", INDEX_PATH, 2 * OBSERVE_TIMEOUT_S, {})
            if status != 404:
                return await self._sight(status, body, names)
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
