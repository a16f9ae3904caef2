"""LoRA adapters of vLLM: quirks measured on 0.32, on the CPU.

It must run with `--enable-lora` and `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`, without which it has
none of the calls, and with a `--max-lora-rank` that covers all adapters.

- A load is synchronous and really loads. Broken weights and a rank above the limit are 500, and the
  server keeps running. A folder that it does not see is 404, and the message has `<path>` instead
  of the path.
- A load of a registered name is 400. `load_inplace` would replace it, but then each request reads
  the folder, and a missing folder crashes the whole server. The driver never uses it.
- The gap of an update, from the unload to the end of the load, was about 40 ms of 404s. Ten updates
  under three clients that never paused failed 6 of 120 requests in one run, and none of 69 in
  another. A broken update failed none.
- `--max-loras` and `--max-cpu-loras` limit the adapters in memory, not the registered ones. An
  evicted adapter is read *from disk again* for the next request. If its folder is gone by then, the
  server ends. So an unload is complete only when no request needs the files. The metric
  `vllm:lora_requests_info` names the adapters of running and waiting requests, also after their
  names are unregistered (seen: 12 long requests ended well after the unload). Without metrics, the
  driver does not wait.
- Unload of an unknown adapter is 404. After a restart nothing is registered.
- With `--api-key` all of `/v1` requires the key. The driver sends none.
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
#: How late a request from just before the unload appears in the metric, in seconds.
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
            hint = ": run it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
        elif status == 404:
            hint = f" (it looked in {root}: set --server-model-dir to the folder as vllm sees it)"
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
        """Return the adapters of all running and waiting requests, if there are metrics."""
        status, body = await self._client.call("GET", "/metrics", 2 * OBSERVE_TIMEOUT_S)
        return names_in_use(body.decode("utf-8", "replace")) if status == 200 else frozenset()


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if isfinite(number) else 0.0


def names_in_use(metrics: str) -> frozenset[str]:
    """Return the adapter names in the newest of the series about requests.

    Each set of names that was ever in use at once is a series, and its value is its time.
    """
    series = list(_INFO.finditer(metrics))
    if not series:
        return frozenset()
    newest = max(series, key=lambda match: _number(match["at"]))
    lists = _NAMES.findall(newest["labels"])
    return frozenset(name for listed in lists for name in listed.split(",") if name)
