"""SGLang, its LoRA adapters: read in its sources and documentation, never run here.

Its tests are on a stand-in that says what the sources say. It must run with `--enable-lora`, and
with `--max-lora-rank` and `--lora-target-modules` wide enough for all adapters to come: without
them both are taken from the adapters given at start.

- `POST /load_lora_adapter` and `/unload_lora_adapter` answer `{"success", "error_message",
  "loaded_adapters"}`, 200 or, for any failure, 400. With an API key set, they need it: not spoken
  here.
- `GET /v1/models` lists adapters with `root` and `parent`, as vLLM does.
- Beyond `--max-loaded-loras` (no limit by default) a load unloads the adapter that was used least
  recently. Models that do not fit would push each other out for ever, so a load that would do so is
  refused, and an update goes without a trial if there is no room for one.
- An unload takes the name away, and then waits for the requests that use the adapter: the gap of an
  update lasts as long as the longest of them.
- Adapters cannot come and go with `--dp-size` above 1 (in some releases).
- `/health` generates a token: the list of models is the sign of life.
"""

from __future__ import annotations

from typing import Any, Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.drivers.base import OBSERVE_TIMEOUT_S
from trainedmodel_puller.drivers.client import MALFORMED, JsonShape, parsed, telling, words
from trainedmodel_puller.drivers.lora import AdapterServer, Registered
from trainedmodel_puller.errors import ServerFault


class SGLang(AdapterServer):
    """One SGLang server."""

    kind = "sglang"
    load_path = "/load_lora_adapter"
    unload_path = "/unload_lora_adapter"

    def _refusal(self, status: int, body: bytes, root: str) -> str:
        said = _error_message(body)
        hint = ": it must run with --enable-lora" if "not enabled" in said else ""
        return f"sglang refused the load of {root} ({status}): {said}{hint}"

    async def _has_room(self, registered: Registered) -> bool:
        limit = await self._limit()
        return limit is None or len(registered.adapters) < limit

    async def _refuse_if_full(self, registered: Registered) -> None:
        if not await self._has_room(registered):
            raise ServerFault(
                Reason.LOAD_FAILED,
                f"sglang holds as many adapters as it may ({len(registered.adapters)}); one more "
                "would push another out: raise its --max-loaded-loras, or remove a model",
            )

    async def _limit(self) -> int | None:
        """Return `--max-loaded-loras`; releases have it at one of two paths."""
        for path in ("/server_info", "/get_server_info"):
            status, body = await self._client.call("GET", path, 2 * OBSERVE_TIMEOUT_S)
            if status == 200:
                return self._client.parse(body, _SERVER_INFO)
        return None


def _read_limit(document: Any) -> int | None:
    limit = document.get("max_loaded_loras")
    return None if limit is None else int(limit)


_SERVER_INFO: Final = JsonShape("server info", _read_limit)


def _error_message(body: bytes) -> str:
    try:
        document = parsed(body)
        message = document["error_message"] if isinstance(document, dict) else None
    except MALFORMED:
        message = None
    return telling(str(message)) if message else words(body)
