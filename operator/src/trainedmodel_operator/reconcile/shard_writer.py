"""The shard writer: carries out each shard write of a pass by itself.

The writes of one pass do not depend on each other (rules 6 and 7 of `core.shards.placement`), so
all are sent at once and none waits for another. A write that fails is deferred by itself
(`core.pacing.put_off`): the next plans leave it out until it is due again, and the status of its
models shows it.

A pass waits for its writes, because its statuses depend on them, but at most `PATIENCE_S`. A slower
write continues as an errand. Its shard is held until it has ended, and then the service is
enqueued. In a namespace with such a write, passes do not wait at all for `SLOW_S`: only eight
passes run at once, and other namespaces need them too.

A write that conflicts with another writer is made again from a fresh read, if the basis of its plan
has not changed (`rebase`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, NamedTuple

import structlog

from trainedmodel_operator.core.pacing.put_off import Failure, Kind, PutOff
from trainedmodel_operator.core.shards.documents import ShardWrite, WriteKind, attempt, rebase
from trainedmodel_operator.core.state import ServiceKey, read_shard
from trainedmodel_operator.core.words import api_words
from trainedmodel_operator.errors import (
    ApiError,
    Conflict,
    NamespaceEnds,
    NotFound,
    NotLeading,
    TerminalError,
    Throttled,
)
from trainedmodel_operator.reconcile.write_context import WriteContext

#: How often one shard is tried while another writer writes it without end. A read and a write are a
#: few milliseconds, a pass is fifty.
REBASES: Final = 20
#: A write of a large shard takes half a second where little else runs.
PATIENCE_S: Final = 2.0
SLOW_S: Final = 60.0

log = structlog.get_logger()


class Outcome(NamedTuple):
    """The outcome of some writes.

    Attributes:
        missing: Shards that are not written: the write failed, or is still under way.
        raced: Whether all that happened was that others wrote meanwhile.
    """

    missing: frozenset[int]
    raced: bool


class ShardWriter:
    """Writes shards, and knows which writes have failed."""

    def __init__(self, context: WriteContext) -> None:
        """Write with the context; `rings`, once set, gets each service whose late write ended."""
        self._context = context
        self.rings: Callable[[ServiceKey], None] = lambda key: None
        self._put_off: dict[ServiceKey, dict[int, PutOff]] = {}
        self._under_way: dict[ServiceKey, set[int]] = defaultdict(set)
        self._late: set[tuple[ServiceKey, int]] = set()
        self._slow_until: dict[str, float] = {}
        self._fenced: set[ServiceKey] = set()

    def put_off(self, key: ServiceKey) -> Mapping[int, PutOff]:
        """Return the shards of a service whose last write failed."""
        return dict(self._put_off.get(key, {}))

    def under_way(self, key: ServiceKey) -> frozenset[int]:
        """Return the shards of a service that are being written."""
        return frozenset(self._under_way.get(key, ()))

    async def write(self, key: ServiceKey, writes: Collection[ShardWrite]) -> Outcome:
        """Carry out the writes, and wait a while for them.

        Raises:
            NotLeading: this replica may not write.
        """
        self._fenced.discard(key)
        tasks = {
            write.index: self._context.errands.start(
                self._carry_out(key, write), f"{key} {write.name}"
            )
            for write in writes
            if write.index not in self._under_way.get(key, ())
        }
        if tasks:
            self._under_way[key] |= set(tasks)
            now = asyncio.get_running_loop().time()
            is_slow = now < self._slow_until.get(key.namespace, now)
            await asyncio.wait(tasks.values(), timeout=0 if is_slow else PATIENCE_S)
        if key in self._fenced:
            raise NotLeading("not sent: this replica is not the leader")
        late = {index for index, task in tasks.items() if not task.done()}
        if late:
            self._note_slow(key.namespace)
            self._late |= {(key, index) for index in late}
        failed = {index: one for index, one in self._put_off.get(key, {}).items() if index in tasks}
        return Outcome(
            missing=frozenset(late | set(failed)),
            raced=not late
            and {one.kind for one in failed.values()} == {Kind.RACE}
            and len(failed) == len(tasks),
        )

    def note_unread(self, key: ServiceKey, write: ShardWrite, error: ApiError) -> None:
        """Defer a write because its ConfigMap could not be read."""
        self._failed(key, write, _failure(write, error), error)

    def settle(self, key: ServiceKey, due: Iterable[ShardWrite]) -> None:
        """Forget the failures of a service but for the writes that are still due."""
        indices = {write.index for write in due}
        known = self._put_off.get(key, {})
        for index in set(known) - indices:
            log.info("shard_write_obsolete", key=str(key), shard=index)
            self._forget(key, index)

    def forget_namespace(self, namespace: str) -> None:
        """Forget the failures in a namespace that cannot be read any more."""
        for key in [key for key in self._put_off if key.namespace == namespace]:
            for index in list(self._put_off[key]):
                self._forget(key, index)

    async def _carry_out(self, key: ServiceKey, write: ShardWrite) -> None:
        try:
            await self._try(key, write)
        finally:
            self._under_way[key].discard(write.index)
            if not self._under_way[key]:
                del self._under_way[key]
        if (key, write.index) in self._late:
            self._late.discard((key, write.index))
            self.rings(key)

    async def _try(self, key: ServiceKey, write: ShardWrite) -> None:
        try:
            await self._past_others(key, write)
        except NotLeading:
            self._fenced.add(key)
        except ApiError as error:
            self._failed(key, write, _failure(write, error), error)
        except Exception as error:
            log.exception("shard_write_crashed", key=str(key))
            words = "internal error of the operator; see its log"
            self._failed(key, write, Failure(Kind.TROUBLE, words, attempt(write)), error)
        else:
            self._forget(key, write.index)

    async def _past_others(self, key: ServiceKey, write: ShardWrite) -> None:
        """Write, and rebase on conflicts that do not affect the plan."""
        for tries in range(1, REBASES + 1):
            try:
                await self._context.client.write_shard(key.namespace, write)
                break
            except Conflict:
                found = await self._context.client.get_config_map(key.namespace, write.name)
                view = None if found is None else read_shard(key, found)
                rebased = rebase(write, view)
                if rebased is None or tries == REBASES:
                    raise
                write = rebased
        log.info(
            "shard_written",
            key=str(key),
            shard=write.name,
            kind=write.kind.value,
            change=write.reason,
            **({"tries": tries} if tries > 1 else {}),
        )

    def _failed(
        self, key: ServiceKey, write: ShardWrite, failure: Failure, error: Exception
    ) -> None:
        known = self._put_off.setdefault(key, {})
        if write.index not in known:
            self._context.metrics.count_put_off(key.namespace, "shard", 1)
        known[write.index], pause_s = self._context.defer(known.get(write.index), failure)
        log.warning(
            "shard_not_written",
            key=str(key),
            shard=write.name,
            kind=write.kind.value,
            error_type=error.cause if isinstance(error, ApiError) else "fault",
            error=str(error),
            again_in_s=pause_s,
        )

    def _forget(self, key: ServiceKey, index: int) -> None:
        known = self._put_off.get(key, {})
        if known.pop(index, None) is None:
            return
        if not known:
            del self._put_off[key]
        self._context.metrics.count_put_off(key.namespace, "shard", -1)

    def _note_slow(self, namespace: str) -> None:
        now = asyncio.get_running_loop().time()
        self._slow_until = {one: until for one, until in self._slow_until.items() if until > now}
        if namespace not in self._slow_until:
            log.warning("shard_writes_slow", namespace=namespace, seconds=PATIENCE_S)
        self._slow_until[namespace] = now + SLOW_S


def _failure(write: ShardWrite, error: ApiError) -> Failure:
    """Return the failure of a write for an error."""
    is_gone = isinstance(error, NotFound) and write.kind is not WriteKind.CREATE
    kind = Kind.TROUBLE
    if is_gone or isinstance(error, Conflict):
        kind = Kind.RACE
    elif isinstance(error, NamespaceEnds):
        kind = Kind.ENDING
    elif isinstance(error, TerminalError):
        kind = Kind.REFUSED
    pause_s = error.retry_after_s if isinstance(error, Throttled) else 0.0
    return Failure(kind, error.said or api_words(str(error)), attempt(write), pause_s)
