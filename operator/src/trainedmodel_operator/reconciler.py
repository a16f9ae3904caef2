"""One pass over one parent: gather, plan, act.

The order of the acts is the design: shards first, because pods wait for them; then annotations,
which make the pods look; statuses last, and only *handed over*, because there may be thousands and
none of them is worth a late shard. A pass that cannot gather everything does nothing (O1); one that
is stopped between any two acts is simply made again, from what is there then.

Besides the API this module knows only a little memory for each parent (when a pod was nudged, since
when an entry lies in two shards). Losing it costs a delay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime
from math import inf
from typing import Any, Final

import structlog

from trainedmodel_operator.core.plan import Nudge, Plan, plan
from trainedmodel_operator.core.shards import WriteKind
from trainedmodel_operator.core.state import (
    Gathered,
    Memory,
    ParentKey,
    ShardView,
    read_models,
    read_pod,
    read_shard,
)
from trainedmodel_operator.errors import ApiError, NotFound
from trainedmodel_operator.kube import KubeClient
from trainedmodel_operator.reports import ReportCache
from trainedmodel_operator.statuswriter import StatusWriter
from trainedmodel_operator.workqueue import PassResult

NUDGES_AT_ONCE: Final = 8

log = structlog.get_logger()


class Reconciler:
    """Makes passes; the work queue says when."""

    def __init__(
        self,
        client: KubeClient,
        reports: ReportCache,
        statuses: StatusWriter,
        clock: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._reports = reports
        self._statuses = statuses
        self._clock = clock
        self._memories: dict[ParentKey, Memory] = {}

    async def reconcile(self, key: ParentKey, may_write_shards: bool) -> PassResult:
        """Make one pass.

        Raises:
            ApiError: something could not be read or written; the pass must be made again.
        """
        gathered = await self._gather(key, may_write_shards)
        decided = await self._decide(gathered)
        for write in decided.shard_writes:
            await self._client.write_shard(key.namespace, write)
            log.info(
                "shard written",
                key=str(key),
                shard=write.name,
                kind=write.kind.value,
                reason=write.reason,
            )
        self._remember(key, decided)
        try:
            await self._nudge(key, decided.nudges)
        finally:
            self._statuses.submit(
                key.namespace, [model.uid for model in gathered.models], decided.statuses
            )
        return self._result(decided)

    async def _gather(self, key: ParentKey, may_write_shards: bool) -> Gathered:
        """Read both sides whole, or raise (O1)."""
        began = asyncio.get_running_loop().time()
        models, shards, pods, reports = await _all(
            self._client.list_models(*key),
            self._client.list_shards(*key),
            self._client.list_pods(*key),
            self._reports.read(self._client, key),
        )
        uids = [model["metadata"]["uid"] for model in models]
        views = (read_shard(key, shard) for shard in shards)
        return Gathered(
            key=key,
            models=read_models(models, self._statuses.newer_than(began, uids)),
            shards=tuple(view for view in views if view is not None),
            pods=tuple(read_pod(pod) for pod in pods),
            reports=reports,
            memory=self._memories.get(key, Memory()),
            may_write_shards=may_write_shards,
        )

    async def _decide(self, gathered: Gathered) -> Plan:
        """Plan, and look before a shard is created: its name may be somebody else's already."""
        while True:
            decided = plan(gathered, self._clock())
            unseen: list[ShardView] = []
            for write in decided.shard_writes:
                if write.kind is WriteKind.CREATE:
                    found = await self._client.get_config_map(gathered.key.namespace, write.name)
                    view = None if found is None else read_shard(gathered.key, found)
                    if view is not None:
                        unseen.append(view)
            if not unseen:
                return decided
            for view in unseen:
                if not view.is_ours:
                    log.warning("shard not ours", key=str(gathered.key), shard=view.name)
            gathered = replace(gathered, shards=(*gathered.shards, *unseen))

    async def _nudge(self, key: ParentKey, nudges: tuple[Nudge, ...]) -> None:
        limit = asyncio.Semaphore(NUDGES_AT_ONCE)

        async def nudge_one(nudge: Nudge) -> None:
            async with limit:
                try:
                    await self._client.annotate_pod(key.namespace, nudge.pod, nudge.value)
                except NotFound:
                    return
            log.info("pod nudged", key=str(key), pod=nudge.pod, reason=nudge.reason)

        await _all(*(nudge_one(nudge) for nudge in nudges))

    def _remember(self, key: ParentKey, decided: Plan) -> None:
        now = self._clock()
        before = self._memories.pop(key, Memory())
        nudged_now = {nudge.uid for nudge in decided.nudges}
        memory = Memory(
            nudged={
                uid: now if uid in nudged_now else before.nudged.get(uid, now)
                for uid in decided.behind
            },
            doubled={name: before.doubled.get(name, now) for name in decided.moving},
        )
        if memory.nudged or memory.doubled:
            self._memories[key] = memory

    def _result(self, decided: Plan) -> PassResult:
        now = self._clock()
        waits = [wait.until for wait in decided.deferred if wait.until is not None]
        return PassResult(
            wrote_shards=bool(decided.shard_writes),
            held_back=any(wait.until is None for wait in decided.deferred),
            again_in_s=max(0.0, (min(waits) - now).total_seconds()) if waits else inf,
        )


async def _all(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run all at once and return their results; the first error cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as errors:
        raise _first(errors) from errors
    return [task.result() for task in tasks]


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    known, unknown = errors.split(ApiError)
    group = unknown or known or errors
    first: Exception | ExceptionGroup[Exception] = group
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    return first
