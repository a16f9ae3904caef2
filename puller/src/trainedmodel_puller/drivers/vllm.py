"""vLLM, its LoRA adapters: quirks measured on 0.32, on the CPU.

It must run with `--enable-lora` and `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`, without which it has
none of the calls, and with a `--max-lora-rank` that none of the adapters exceeds.

- A load is synchronous and really loads: broken weights and too high a rank are 500, the server
  lives on. A folder that it does not see is 404, and the message says `<path>` instead of the path.
- A name that is registered is 400. `load_inplace` would replace it, but from then on the folder is
  read at each request, and one that is gone kills the whole server: never used.
- The gap of an update, from the unload to the end of the load, was about 40 ms of 404s. Ten updates
  under three clients that never paused cost 6 of 120 requests, or none of 69; a broken one none.
- `--max-loras` and `--max-cpu-loras` limit what is in memory, not what may be registered: an
  evicted adapter is read *from disk again* when asked for. If its folder is gone by then, the
  server ends. So an unload is done when no request needs the files any more: the metric
  `vllm:lora_requests_info` names the adapters of requests that run or wait, and goes on naming one
  whose name is gone already (seen: 12 long requests ended well after the unload). A server that
  shows no metrics is not waited for.
- Unloading what is not there is 404. After a restart nothing is registered.
- With `--api-key` all of `/v1` wants the key, which is not spoken here.
"""

from __future__ import annotations

import asyncio
import re
import time
from math import isfinite
from typing import Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.drivers.base import OBSERVE_TIMEOUT_S
from trainedmodel_puller.drivers.client import words
from trainedmodel_puller.drivers.lora import POLL_S, AdapterServer
from trainedmodel_puller.errors import ServerFault

_INFO: Final = re.compile(r"^vllm:lora_requests_info\{(?P<labels>[^}]*)\} (?P<at>\S+)$", re.M)
_NAMES: Final = re.compile(r'(?:running|waiting)_lora_adapters="([^"]*)"')
#: A request that was let in just before the unload shows up in the metric this much later at most.
_SETTLE_S: Final = 0.5


class VLLM(AdapterServer):
    """One vLLM server."""

    kind = "vllm"
    ping_path = "/health"
    load_path = "/v1/load_lora_adapter"
    unload_path = "/v1/unload_lora_adapter"

    def _refusal(self, status: int, body: bytes, root: str) -> str:
        said = words(body)
        hint = ""
        if status == 404 and said == "Not Found":
            hint = ": it must run with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
        elif status == 404:
            hint = f" (it looked in {root}: is that what it sees? --server-model-dir must name it)"
        elif "max_lora_rank" in said:
            hint = " (raise its --max-lora-rank)"
        return f"vllm refused the load ({status}): {said}{hint}"

    async def _drain(self, name: str) -> None:
        deadline = time.monotonic() + self._action_timeout_s
        await asyncio.sleep(_SETTLE_S)
        while name in await self._in_use():
            if time.monotonic() > deadline:
                raise ServerFault(
                    Reason.UNLOAD_FAILED,
                    f"unloaded, but requests for it still run after {self._action_timeout_s:.0f} s",
                )
            await asyncio.sleep(2 * POLL_S)

    async def _in_use(self) -> frozenset[str]:
        """Return the adapters of all requests that run or wait, as far as the server tells."""
        status, body = await self._client.call("GET", "/metrics", 2 * OBSERVE_TIMEOUT_S)
        return names_in_use(body.decode("utf-8", "replace")) if status == 200 else frozenset()


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if isfinite(number) else 0.0


def names_in_use(metrics: str) -> frozenset[str]:
    """Return the adapter names in the newest of the series that tell of requests.

    Each set of names that was ever in use at once is a series of its own, and its value is when.
    """
    series = list(_INFO.finditer(metrics))
    if not series:
        return frozenset()
    newest = max(series, key=lambda match: _number(match["at"]))
    lists = _NAMES.findall(newest["labels"])
    return frozenset(name for listed in lists for name in listed.split(",") if name)
