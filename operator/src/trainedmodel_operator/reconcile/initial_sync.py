"""The initial sync: finds after a start which services need no pass.

An operator that starts must check everything once, and nearly always finds it unchanged. A pass for
each service costs five requests, so a thousand for two hundred services. The initial sync lists
everything once and plans each service from those lists. A service with an empty plan is settled, as
if a pass had found nothing to do. Nothing is written from these lists: a service that has something
to do or to wait for gets a pass, which reads it again.

The lists are not of one moment, and need not be. Later changes arrive by the watches, which start
later with a list, or they change the fingerprint that the next resync compares.

Memory: the kept part of ten thousand models is some 60 MB, for the few seconds that this takes.
Beyond `MOST_MODELS`, or `MOST_BYTES` of shards, nothing more is kept, and those services get
passes.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import structlog

from trainedmodel_operator.api.client import model_version
from trainedmodel_operator.api.protocol import KubeClient, ModelVersion
from trainedmodel_operator.api.report_cache import ReportCache, report_page_size
from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.reconcile.inventory import (
    Inventory,
    Listing,
    merged,
    pod_parents,
    shard_parent,
)
from trainedmodel_operator.reconcile.listed import ListedObjects

MOST_MODELS: Final = 20_000
MOST_BYTES: Final = 64_000_000

Judge = Callable[[ServiceKey, ListedObjects], Awaitable[bool]]

log = structlog.get_logger()


class InitialSync:
    """Looks at everything as `Inventory` does, and judges it."""

    def __init__(
        self, client: KubeClient, inventory: Inventory, reports: ReportCache, judge: Judge
    ) -> None:
        """Judge each service by `judge`, which settles those that need no pass."""
        self._client = client
        self._inventory = inventory
        self._reports = reports
        self._judge = judge

    async def look(self) -> dict[ServiceKey, str]:
        """Return the fingerprint of every service that a model or a shard names, in order.

        Services in namespaces that cannot be read are left out.

        Raises:
            ApiError: no namespace could be read.
        """
        room = _Room()
        looks = await self._inventory.namespaces.each(
            lambda namespace: self._list(namespace, _Kept(room)), lambda look: look[0].is_empty()
        )
        found = self._inventory.take(merged(lists for lists, _ in looks))
        settled = 0
        for lists, kept in looks:
            settled += await self._settle(lists, kept)
        log.info("initial_sync_finished", services=len(found), settled=settled)
        return found

    async def _list(self, namespace: str | None, kept: _Kept) -> tuple[Listing, _Kept]:
        versions = await self._client.list_models(namespace, None, keep=kept.model)
        return Listing(
            models=[version for version in versions if version is not None],
            shards=await self._client.list_shards(namespace, None, keep=kept.shard),
            pods=await self._client.list_pods(namespace, None),
            reports=await self._client.list_reports(
                namespace, page_size=report_page_size(kept.most_models), keep=self._take_report
            ),
        ), kept

    async def _settle(self, lists: Listing, kept: _Kept) -> int:
        """Judge the kept services of some lists; return how many need no pass."""
        reports: dict[ServiceKey, list[Document]] = defaultdict(list)
        for report in lists.reports:
            metadata = report["metadata"]
            reports[ServiceKey(metadata["namespace"], report["parent"])].append(metadata)
        settled = 0
        for key, listed in kept.listed(lists.pods):
            settled += await self._is_settled(key, listed, reports[key])
            await asyncio.sleep(0)  # the Lease is renewed meanwhile
        return settled

    async def _is_settled(
        self, key: ServiceKey, listed: ListedObjects, reports: list[Document]
    ) -> bool:
        known = self._reports.recall(key, reports)
        if known is None:
            return False
        listed.reports = known
        return await self._judge(key, listed)

    def _take_report(self, document: Document) -> Document:
        """Offer a report to the cache, which reads it at once; keep whose it is."""
        self._reports.offer(document)
        return {
            "metadata": document["metadata"],
            "parent": document.get("inferenceService") or "",
        }


@dataclass
class _Room:
    """How much is kept, of all namespaces together."""

    models: int = 0
    bytes: int = 0


class _Kept:
    """The kept objects of one survey, by service."""

    def __init__(self, room: _Room) -> None:
        self._listed: dict[ServiceKey, ListedObjects] = defaultdict(ListedObjects)
        self._beyond: set[ServiceKey] = set()
        self._models: Counter[ServiceKey] = Counter()
        self._room = room

    @property
    def most_models(self) -> int:
        """Most models of one service."""
        return max(self._models.values(), default=0)

    def model(self, document: Document) -> ModelVersion | None:
        """Keep a model, if there is room; return its part for the inventory."""
        version = model_version(document)
        if version is None:
            return None
        self._models[version.key] += 1
        self._room.models += 1
        if self._room.models <= MOST_MODELS:
            self._listed[version.key].models.append(document)
        else:
            self._beyond.add(version.key)
        return version

    def shard(self, document: Document) -> Document:
        """Keep a shard, if there is room; return its part for the inventory."""
        key = shard_parent(document)
        if key is not None:
            self._room.bytes += sum(map(len, (document.get("data") or {}).values()))
            if self._room.bytes <= MOST_BYTES:
                self._listed[key].shards.append(document)
            else:
                self._beyond.add(key)
        return {"metadata": document["metadata"]}

    def listed(self, pods: Iterable[Document]) -> Iterator[tuple[ServiceKey, ListedObjects]]:
        """Hand over each service that was kept whole, in order."""
        for pod in pods:
            for key in pod_parents(pod):
                if key in self._listed:
                    self._listed[key].pods.append(pod)
        for key in sorted(self._listed):
            listed = self._listed.pop(key)
            if key not in self._beyond:
                yield key, listed
