"""LoRA adapters of SGLang: experimental, written from its sources and documentation.

No test has run the real server. The tests use a stand-in that follows the sources. SGLang must run
with `--enable-lora`, and with values of `--max-lora-rank` and `--lora-target-modules` that cover
all adapters. Without these two flags it takes the values from the adapters given at its start.

- `POST /load_lora_adapter` and `/unload_lora_adapter` return `{"success", "error_message",
  "loaded_adapters"}`, with 200 or, for any failure, 400. If an API key is set, they require it. The
  driver sends none.
- `GET /v1/models` lists adapters with `root` and `parent`, as vLLM does.
- Beyond `--max-loaded-loras` (no limit by default) a load unloads the least recently used adapter.
  Models that do not fit would then replace each other for ever. So the driver refuses a load that
  would unload another adapter. An update makes no probe if there is no room for one.
- An unload removes the name, and then waits for the requests that use the adapter. So the gap of an
  update is as long as the longest of them.
- With `--dp-size` above 1, some releases cannot load adapters at run time.
- `/health` generates a token, so the ping reads the model list.
"""

from __future__ import annotations

from typing import Any, Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.drivers.base import OBSERVE_TIMEOUT_S
from trainedmodel_puller.drivers.client import JsonShape, words
from trainedmodel_puller.drivers.lora import AdapterServer, Registered
from trainedmodel_puller.errors import ServerFault


class SGLang(AdapterServer):
    """One SGLang server."""

    kind = "sglang"
    load_path = "/load_lora_adapter"
    unload_path = "/unload_lora_adapter"

    def _refusal(self, status: int, body: bytes, root: str) -> str:
        said = words(body)
        hint = ": run it with --enable-lora" if "not enabled" in said else ""
        return f"sglang refused the load of {root} ({status}): {said}{hint}"

    async def _has_room(self, registered: Registered) -> bool:
        limit = await self._limit()
        return limit is None or len(registered.adapters) < limit

    async def _refuse_if_full(self, registered: Registered) -> None:
        if not await self._has_room(registered):
            raise ServerFault(
                Reason.LOAD_FAILED,
                f"sglang has reached its limit of adapters ({len(registered.adapters)}), and this "
                "load would unload another one: raise its --max-loaded-loras, or remove a model",
            )

    async def _limit(self) -> int | None:
        """Return `--max-loaded-loras`. The path depends on the release."""
        for path in ("/server_info", "/get_server_info"):
            status, body = await self._client.call("GET", path, 2 * OBSERVE_TIMEOUT_S)
            if status == 200:
                return self._client.parse(body, _SERVER_INFO)
        return None


def _read_limit(document: Any) -> int | None:
    limit = document.get("max_loaded_loras")
    return None if limit is None else int(limit)


_SERVER_INFO: Final = JsonShape("server info", _read_limit)
