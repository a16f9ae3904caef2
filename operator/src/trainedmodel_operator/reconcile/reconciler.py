"""One pass over one service: gather, plan, act.

The order of the actions is part of the design. Shards come first, because pods wait for them. Then
come annotations, which make kubelets refresh the shards, and statuses. Both are only *handed over*:
there may be thousands, and none justifies a late shard. A pass that cannot gather everything does
nothing (O1). A pass that is stopped between two actions is made again from the state that it left.

Each write is carried out by itself (O11). After a failed write the pass plans again with that
knowledge and continues. So statuses and nudges reflect the writes that succeeded.

Besides the API this module has only a small memory for each service: when a pod was nudged, and
since when an entry is in two shards. Losing it costs a delay.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import replace
from datetime import datetime
from math import inf
from typing import Any, Final

import structlog
from trainedmodel_contract import names

from trainedmodel_operator.api.inference_services import InferenceServices
from trainedmodel_operator.api.protocol import KubeClient
from trainedmodel_operator.api.report_cache import ReportCache, of_their_pods
from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.fingerprint import fingerprint, part_of
from trainedmodel_operator.core.plan import Plan, plan
from trainedmodel_operator.core.shards.documents import WriteKind
from trainedmodel_operator.core.state import (
    DesiredModel,
    Gathered,
    Memory,
    PodView,
    ServiceKey,
    ServiceView,
    ShardView,
    read_models,
    read_pod,
    read_shard,
)
from trainedmodel_operator.errors import ApiError
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.reconcile.errands import Errands
from trainedmodel_operator.reconcile.listed import ListedObjects
from trainedmodel_operator.reconcile.nudger import Nudger
from trainedmodel_operator.reconcile.shard_writer import ShardWriter
from trainedmodel_operator.reconcile.status_writer import StatusWriter
from trainedmodel_operator.reconcile.work_queue import PassResult
from trainedmodel_operator.reconcile.write_context import WriteContext

#: Copies (models by pods) whose plan takes some 20 ms, and models that take as long to be read.
LARGE_PLAN: Final = 3_000
LARGE_PARENT: Final = 1_000

log = structlog.get_logger()


class Reconciler:
    """Makes passes; the work queue says when."""

    def __init__(
        self,
        client: KubeClient,
        reports: ReportCache,
        statuses: StatusWriter,
        clock: Callable[[], datetime],
        *,
        services: InferenceServices | None = None,
        observed: Callable[[Gathered, Plan], None] = lambda gathered, decided: None,
        metrics: Metrics | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Make passes over `client`, but for namespaces that are not readable (`is_readable`).

        `services`, where given, knows the services' URLs; `observed` is told of each pass after its
        shards were written, and neither waits nor fails.
        """
        self.is_readable: Callable[[str], bool] = lambda namespace: True
        self._errands = Errands()
        context = WriteContext(client, self._errands, clock, metrics or Metrics(), jitter)
        self._shards = ShardWriter(context)
        self._nudger = Nudger(context)
        self._services = services
        self._observed = observed
        self._client = client
        self._reports = reports
        self._statuses = statuses
        self._clock = clock
        self._memories: dict[ServiceKey, Memory] = {}
        self._settled: dict[ServiceKey, str] = {}

    async def run(self) -> None:
        """Run the tasks that outlive a pass, until cancelled."""
        await self._errands.run()

    def forget_namespace(self, namespace: str) -> None:
        """Forget a namespace that cannot be read: once it can be again, all is looked at."""
        self._shards.forget_namespace(namespace)
        self._nudger.forget_namespace(namespace)
        for key in [key for key in self._settled if key.namespace == namespace]:
            del self._settled[key]

    async def reconcile(self, key: ServiceKey, may_write_shards: bool) -> PassResult:
        """Make one pass.

        Raises:
            ApiError: something could not be read; the pass must be made again.
        """
        self._settled.pop(key, None)
        if not self.is_readable(key.namespace):
            return PassResult()
        began = asyncio.get_running_loop().time()
        gathered, found = await self._gather(key, may_write_shards)
        decided, seen = await self._decide(gathered)
        has_written = False
        if decided.shard_writes:
            outcome = await self._shards.write(key, decided.shard_writes)
            has_written = not outcome.raced
            if outcome.missing:
                seen = self._holding(seen, outcome.missing)
                decided = await self._plan(seen)
        self._shards.settle(key, (*decided.shard_writes, *decided.held))
        self._remember(key, decided)
        self._observed(gathered, decided)
        self._nudger.submit(key, {pod.uid for pod in gathered.pods}, decided.nudges)
        uids = [model.uid for model in gathered.models]
        self._statuses.submit(key, uids, decided.statuses, began)
        if decided.is_empty and (gathered.models or gathered.shards) and _are_ours(seen):
            self._settled[key] = found
        return self._result(decided, has_written)

    def rings(self, enqueue: Callable[[ServiceKey], None]) -> None:
        """Set the callback for a service whose late write has ended."""
        self._shards.rings = enqueue

    def is_settled(self, key: ServiceKey, found: str) -> bool:
        """Tell whether the last pass over a service saw this fingerprint, and did nothing.

        What such a pass waits for (a nudge, a closed window) is in its `PassResult`.
        """
        return self._settled.get(key) == found

    async def judge(self, key: ServiceKey, listed: ListedObjects) -> bool:
        """Tell whether a pass would do nothing and wait for nothing; then the service settles.

        Decides from what was listed already, whereas a pass reads afresh. Reports must have been
        offered to the cache.
        """
        service = await self._read_service(key)
        gathered, found = await self._compose(key, listed, service, began=inf, may_write=True)
        decided = await self._plan(gathered)
        if not decided.is_empty or decided.deferred:
            return False
        self._remember(key, decided)
        self._observed(gathered, decided)
        self._settled[key] = found
        return True

    async def _gather(self, key: ServiceKey, may_write_shards: bool) -> tuple[Gathered, str]:
        """Read both sides whole, or raise (O1); return them with their fingerprint."""
        began = asyncio.get_running_loop().time()
        models, shards, pods, reports, service = await _all(
            self._client.list_models(*key),
            self._client.list_shards(*key),
            self._client.list_pods(*key),
            self._reports.read(self._client, key),
            self._read_service(key),
        )
        listed = ListedObjects(models, shards, pods, reports)
        return await self._compose(key, listed, service, began=began, may_write=may_write_shards)

    async def _compose(
        self,
        key: ServiceKey,
        listed: ListedObjects,
        service: ServiceView,
        *,
        began: float,
        may_write: bool,
    ) -> tuple[Gathered, str]:
        """Read what was listed since `began`; return it with its fingerprint."""
        uids = [model["metadata"]["uid"] for model in listed.models]
        views = [read_shard(key, shard) for shard in listed.shards]
        newer = self._statuses.newer_than(began, uids)
        gathered = Gathered(
            key=key,
            models=await self._read_models(listed.models, newer),
            shards=tuple(view for view in views if view is not None),
            pods=self._read_pods(key, listed.pods, began),
            reports=of_their_pods(listed.reports, listed.pods),
            staleness=self._reports.staleness(key),
            unread=self._reports.unread(key),
            service=service,
            memory=self._memory(key),
            may_write_shards=may_write,
        )
        named = [one for one, view in zip(listed.shards, views, strict=True) if view is not None]
        parts = [part_of(one["metadata"]) for one in (*listed.models, *named, *listed.pods)]
        for pod in gathered.pods:
            parts.extend(self._reports.parts(key, pod.uid, as_read=True))
        return gathered, fingerprint(parts)

    def _memory(self, key: ServiceKey) -> Memory:
        return replace(
            self._memories.get(key, Memory()),
            put_off=self._shards.put_off(key),
            under_way=self._shards.under_way(key),
            unnudged=self._nudger.put_off(key),
        )

    def _read_pods(
        self, key: ServiceKey, pods: list[Document], began: float
    ) -> tuple[PodView, ...]:
        """Read the pods that were listed since `began`, with the nudges sent since."""
        sent = self._nudger.sent_since(key, began)
        views = (read_pod(pod) for pod in pods)
        return tuple(
            replace(view, annotations={**view.annotations, names.CONFIG_ANNOTATION: sent[view.uid]})
            if view.uid in sent
            else view
            for view in views
        )

    async def _read_service(self, key: ServiceKey) -> ServiceView:
        return ServiceView() if self._services is None else await self._services.read(key)

    async def _read_models(
        self, models: list[Document], newer: Mapping[str, Document]
    ) -> tuple[DesiredModel, ...]:
        if len(models) < LARGE_PARENT:
            return read_models(models, newer)
        return await asyncio.to_thread(read_models, models, newer)

    async def _decide(self, gathered: Gathered) -> tuple[Plan, Gathered]:
        """Plan, and read before a shard is created: its name may be taken.

        Return also what the plan was made from, with what was found so.
        """
        while True:
            decided = await self._plan(gathered)
            unseen: list[ShardView] = []
            unread: set[int] = set()
            for write in decided.shard_writes:
                if write.kind is not WriteKind.CREATE:
                    continue
                try:
                    found = await self._client.get_config_map(gathered.key.namespace, write.name)
                except ApiError as error:
                    self._shards.note_unread(gathered.key, write, error)
                    unread.add(write.index)
                    continue
                view = None if found is None else read_shard(gathered.key, found)
                if view is not None:
                    unseen.append(view)
            if not unseen and not unread:
                return decided, gathered
            for view in unseen:
                if not view.is_ours:
                    log.warning("shard_not_ours", key=str(gathered.key), shard=view.name)
            gathered = replace(gathered, shards=(*gathered.shards, *unseen))
            gathered = self._holding(gathered, unread)

    async def _plan(self, gathered: Gathered) -> Plan:
        """Plan; in a thread where that takes longer than the event loop may stand still."""
        copies = len(gathered.models) * (1 + len(gathered.pods))
        if copies < LARGE_PLAN:
            return plan(gathered, self._clock())
        return await asyncio.to_thread(plan, gathered, self._clock())

    def _holding(self, gathered: Gathered, shards: Collection[int]) -> Gathered:
        """Return the input for a plan that leaves these shards as they are."""
        key, before = gathered.key, gathered.memory
        under_way = self._shards.under_way(key)
        memory = replace(
            before,
            held=before.held | (frozenset(shards) - under_way),
            under_way=under_way,
            put_off=self._shards.put_off(key),
        )
        return replace(gathered, memory=memory)

    def _remember(self, key: ServiceKey, decided: Plan) -> None:
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

    def _result(self, decided: Plan, has_written: bool) -> PassResult:
        now = self._clock()
        waits = [wait.until for wait in decided.deferred if wait.until is not None]
        return PassResult(
            wrote_shards=has_written,
            held_back=any(wait.until is None for wait in decided.deferred),
            again_in_s=max(0.0, (min(waits) - now).total_seconds()) if waits else inf,
        )


def _are_ours(gathered: Gathered) -> bool:
    """Tell whether no name of a shard was found taken.

    What is not ours is in no list that a fingerprint is made of: when it goes, only a pass sees.
    """
    return all(view.is_ours for view in gathered.shards)


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
