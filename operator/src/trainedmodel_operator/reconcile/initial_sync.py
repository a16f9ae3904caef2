"""The first look: after a start, which parents are already as they shall be.

An operator that starts has to look at everything once, and nearly always finds everything as the
last one left it. Pass by pass that is five requests for each parent, a thousand for two hundred. So
here everything is read once, in lists, and each parent is planned from them: one whose plan comes
to nothing is settled, exactly as if a pass had come to nothing. Nothing is ever written because of
that: a parent that has something to do, or to wait for, gets a pass, which reads it afresh.

The lists are not of one moment, and need not be. What changed since is told by the watches, which
begin later, and list; or it changes the fingerprint that the next resync compares.

Memory: what is kept of ten thousand models are some 60 MB, for the seconds that this takes. Beyond
`MOST_MODELS`, or `MOST_BYTES` of shards, no more is kept, and the parents concerned get passes.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from trainedmodel_operator.api.client import model_version
from trainedmodel_operator.api.protocol import KubeClient, ModelVersion
from trainedmodel_operator.api.report_cache import ReportCache, reports_at_once
from trainedmodel_operator.core.state import ParentKey
from trainedmodel_operator.reconcile.inventory import (
    Lists,
    Survey,
    merged,
    pod_parents,
    shard_parent,
)
from trainedmodel_operator.reconcile.listed import Sides

MOST_MODELS: Final = 20_000
MOST_BYTES: Final = 64_000_000

Document = Mapping[str, Any]
Judge = Callable[[ParentKey, Sides], Awaitable[bool]]

log = structlog.get_logger()


class FirstLook:
    """Looks at everything as `Survey` does, and judges it."""

    def __init__(
        self, client: KubeClient, survey: Survey, reports: ReportCache, judge: Judge
    ) -> None:
        """Judge each parent by `judge`, which settles those that need no pass."""
        self._client = client
        self._survey = survey
        self._reports = reports
        self._judge = judge

    async def look(self) -> dict[ParentKey, str]:
        """Return the fingerprint of every parent that a model or a shard names, in order.

        Parents in namespaces that cannot be read are left out.

        Raises:
            ApiError: no namespace could be read.
        """
        room = _Room()
        looks = await self._survey.namespaces.each(
            lambda namespace: self._list(namespace, _Kept(room)), lambda look: look[0].is_empty()
        )
        found = self._survey.take(merged(lists for lists, _ in looks))
        settled = 0
        for lists, kept in looks:
            settled += await self._settle(lists, kept)
        log.info("looked at everything", parents=len(found), settled=settled)
        return found

    async def _list(self, namespace: str | None, kept: _Kept) -> tuple[Lists, _Kept]:
        versions = await self._client.list_models(namespace, None, keep=kept.model)
        return Lists(
            models=[version for version in versions if version is not None],
            shards=await self._client.list_shards(namespace, None, keep=kept.shard),
            pods=await self._client.list_pods(namespace, None),
            reports=await self._client.list_reports(
                namespace, page_size=reports_at_once(kept.most_models), keep=self._take_report
            ),
        ), kept

    async def _settle(self, lists: Lists, kept: _Kept) -> int:
        """Judge what was kept of some lists; return how many parents need no pass."""
        reports: dict[ParentKey, list[Document]] = defaultdict(list)
        for report in lists.reports:
            metadata = report["metadata"]
            reports[ParentKey(metadata["namespace"], report["parent"])].append(metadata)
        settled = 0
        for key, sides in kept.sides(lists.pods):
            settled += await self._is_settled(key, sides, reports[key])
            await asyncio.sleep(0)  # the Lease is renewed meanwhile
        return settled

    async def _is_settled(self, key: ParentKey, sides: Sides, reports: list[Document]) -> bool:
        known = self._reports.recall(key, reports)
        if known is None:
            return False
        sides.reports = known
        return await self._judge(key, sides)

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
    """What is kept of the lists of one look, by parent."""

    def __init__(self, room: _Room) -> None:
        self._sides: dict[ParentKey, Sides] = defaultdict(Sides)
        self._beyond: set[ParentKey] = set()
        self._models: Counter[ParentKey] = Counter()
        self._room = room

    @property
    def most_models(self) -> int:
        """Most models of one parent."""
        return max(self._models.values(), default=0)

    def model(self, document: Document) -> ModelVersion | None:
        """Keep a model, if there is room; return what the survey wants to know."""
        version = model_version(document)
        if version is None:
            return None
        self._models[version.key] += 1
        self._room.models += 1
        if self._room.models <= MOST_MODELS:
            self._sides[version.key].models.append(document)
        else:
            self._beyond.add(version.key)
        return version

    def shard(self, document: Document) -> Document:
        """Keep a shard, if there is room; return what the survey wants to know."""
        key = shard_parent(document)
        if key is not None:
            self._room.bytes += sum(map(len, (document.get("data") or {}).values()))
            if self._room.bytes <= MOST_BYTES:
                self._sides[key].shards.append(document)
            else:
                self._beyond.add(key)
        return {"metadata": document["metadata"]}

    def sides(self, pods: Iterable[Document]) -> Iterator[tuple[ParentKey, Sides]]:
        """Hand over each parent that was kept whole, in order."""
        for pod in pods:
            for key in pod_parents(pod):
                if key in self._sides:
                    self._sides[key].pods.append(pod)
        for key in sorted(self._sides):
            sides = self._sides.pop(key)
            if key not in self._beyond:
                yield key, sides
