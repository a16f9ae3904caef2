"""The resync: the pass that needs no event.

Watches lose things. A deletion that falls into a gap of the watch is never reported, a hand that
edits a ConfigMap rings no bell, and at start nothing has rung at all. So now and then (60 s,
jittered) everything that can need work is found by two lists, and each parent that appears in
*either* is looked at: TrainedModels, and shards, which tell of parents whose last model is gone.

The first resync is the start of the operator: until it has succeeded once, the API or the CRDs are
not there, and the watches are not begun.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from trainedmodel_contract import names

from trainedmodel_operator.core.pacing import Bell
from trainedmodel_operator.core.state import ParentKey
from trainedmodel_operator.errors import ApiError
from trainedmodel_operator.kube import KubeClient

FIRST_RETRY_S: Final = 1.0

log = structlog.get_logger()


class Resync:
    """Rings for every parent that there is."""

    def __init__(
        self,
        client: KubeClient,
        ring: Callable[[ParentKey, Bell], None],
        *,
        namespaces: Sequence[str],
        period_s: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._ring = ring
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._period_s = period_s
        self._jitter = jitter
        self.has_begun = asyncio.Event()

    async def run(self) -> None:
        """Ring, wait, and again, until cancelled; a list that fails is soon tried again."""
        failures = 0
        while True:
            try:
                parents = await self.find_parents()
            except ApiError as error:
                log.warning("resync failed", error=str(error))
                pause = min(FIRST_RETRY_S * 2**failures, self._period_s)
                failures = min(failures + 1, 16)
            else:
                failures = 0
                pause = self._period_s
                for key in parents:
                    self._ring(key, Bell.RESYNC)
                self.has_begun.set()
            await asyncio.sleep(pause * (0.8 + 0.4 * self._jitter()))

    async def find_parents(self) -> list[ParentKey]:
        """Return every parent that a model or a shard names, in order."""
        found: set[ParentKey] = set()
        for namespace in self._namespaces:
            for model in await self._client.list_models(namespace, None):
                parent = model.get("spec", {}).get("inferenceService")
                if parent:
                    found.add(ParentKey(model["metadata"]["namespace"], parent))
            for shard in await self._client.list_shard_metadata(namespace):
                metadata = shard["metadata"]
                parent = metadata["labels"][names.PARENT_LABEL]
                if metadata["name"] in names.shard_names(parent):
                    found.add(ParentKey(metadata["namespace"], parent))
        return sorted(found)
