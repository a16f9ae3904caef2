"""The plan of one pass: all decisions about one service, in order.

`plan` is total and deterministic: the same two sides and the same instant give the same plan, and a
plan that was carried out is followed by an empty one. The rules, in the order in which they run:

1. `place` (`placement`): which shard holds which entry, and which model is refused, and why.
2. `_shard_writes`: the ConfigMaps that differ, as the smallest writes; none while the shard window
   is closed. A shard that lost its last model becomes empty, and is deleted only when its service
   has neither models nor pods (O8). Foreign objects are never touched (O5). A write that has failed
   is held until it is due again (`put_off`). Nothing else changes: the other writes are the same as
   without it (O11).
3. `_nudges`: pods whose own report shows that they have not seen the shards as they are after these
   writes. A changed annotation makes their kubelet refresh the volume at once.
4. `_statuses`: the desired status of each model, only if its entry is in the shard that the plan
   wants, so that `Accepted` never precedes the ConfigMap. The status of a model whose entry is in a
   held write says so (`ShardRefused`). Reports of another service prove nothing.
5. `deferred`: when to make the next pass without an event, and why: a nudge that may have no
   effect, a move that waits. Resyncs find reports that go stale, because they list their metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from trainedmodel_contract import names
from trainedmodel_contract.reasons import Reason

from trainedmodel_operator.core.pacing.put_off import Kind, PutOff
from trainedmodel_operator.core.shards import documents, placement
from trainedmodel_operator.core.shards.documents import ShardWrite, WriteKind
from trainedmodel_operator.core.shards.placement import MOVE_GRACE, Placement, Verdict
from trainedmodel_operator.core.state import DesiredModel, Gathered, PodView
from trainedmodel_operator.core.status import status, urls
from trainedmodel_operator.core.status.pod_verdicts import PodViews

#: A nudge that shows no effect is repeated after this long, then after twice, and so on.
NUDGE_AGAIN = timedelta(seconds=3)
LONGEST_NUDGE_PAUSE = timedelta(seconds=60)
#: A service that comes up gets its URL some time after its pods are there, and no event tells.
URL_AGAIN = timedelta(seconds=60)
#: A report that could not be read is read again.
READ_AGAIN = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Nudge:
    """An annotation that makes a pod's kubelet refresh its volumes."""

    pod: str
    uid: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class StatusWrite:
    """The desired status of a model."""

    name: str
    uid: str
    told: Mapping[str, object]
    status: status.Status


@dataclass(frozen=True, slots=True)
class Deferred:
    """Something to be looked at again. `until` None: as soon as the shard window opens."""

    until: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions of one pass.

    Attributes:
        behind: Uids of the pods that have not seen the shards yet; the next pass remembers them.
        moving: Models that lie in two shards; the next pass remembers them.
        held: Writes that are due, and are put off or under way.
    """

    shard_writes: tuple[ShardWrite, ...] = ()
    nudges: tuple[Nudge, ...] = ()
    statuses: tuple[StatusWrite, ...] = ()
    deferred: tuple[Deferred, ...] = ()
    behind: frozenset[str] = frozenset()
    moving: frozenset[str] = frozenset()
    held: tuple[ShardWrite, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do now."""
        return not (self.shard_writes or self.nudges or self.statuses)


Contents = dict[int, Mapping[str, str]]


def plan(gathered: Gathered, now: datetime) -> Plan:
    """Decide the actions of one pass; the rules are at the top of this module."""
    present: Contents = {view.index: view.data for view in gathered.shards if view.is_ours}
    seen = _is_seen(gathered, documents.seen_digest(present.items()))
    placed = placement.place(gathered, seen, now)
    wanted, after = _shard_writes(gathered, placed)
    held = tuple(write for write in wanted if _is_held(gathered, write, now))
    due = tuple(write for write in wanted if write not in held)
    held_back = bool(due) and not gathered.may_write_shards
    writes, contents = ((), present) if held_back else (due, _without(held, after, present))
    digest = documents.seen_digest(contents.items())
    nudges, waits = _nudges(gathered, digest, now)
    if held_back:
        waits.append(Deferred(None, "the shard window is closed"))
    waits.extend(_put_off_waits(gathered, held, now))
    if gathered.unread:
        waits.append(Deferred(now + READ_AGAIN, "a report could not be read"))
    if placed.waiting and writes:
        waits.append(Deferred(now, "an entry waits for the write to another shard"))
    if placed.moving:
        waits.append(_move_wait(gathered, placed, now))
    if gathered.models and gathered.service.exists and gathered.service.url is None:
        waits.append(Deferred(now + URL_AGAIN, "the InferenceService has no url yet"))
    return Plan(
        shard_writes=writes,
        nudges=nudges,
        statuses=_statuses(gathered, placed, contents, held, now),
        deferred=tuple(waits),
        held=held,
        behind=frozenset(pod.uid for pod in _behind(gathered, digest)),
        moving=placed.moving,
    )


def _shard_writes(gathered: Gathered, placed: Placement) -> tuple[tuple[ShardWrite, ...], Contents]:
    """Return the writes that are due, and the content of the shards after them."""
    key = gathered.key
    ours = {view.index: view for view in gathered.shards if view.is_ours}
    writes: list[ShardWrite] = []
    after: Contents = {}
    is_abandoned = not gathered.models and not gathered.pods
    for index, entries in sorted(placed.entries.items()):
        view = ours.get(index)
        wanted = documents.render_shard(index, entries)
        name = names.shard_name(key.service, index)
        if view is None:
            if entries:
                body = documents.new_shard(key, index, wanted)
                words = f"+{len(entries)} entries"
                writes.append(ShardWrite(WriteKind.CREATE, index, name, body, words))
                after[index] = wanted
            continue
        if is_abandoned:
            body = {"preconditions": {"resourceVersion": view.resource_version}}
            words = "the service has neither models nor pods"
            writes.append(ShardWrite(WriteKind.DELETE, index, name, body, words))
            continue
        after[index] = wanted
        patch = documents.diff_shard(key, view, wanted)
        if patch is not None:
            words = documents.describe(view, wanted)
            writes.append(ShardWrite(WriteKind.PATCH, index, name, patch, words, view))
    return tuple(writes), after


def _is_held(gathered: Gathered, write: ShardWrite, now: datetime) -> bool:
    """Tell whether a write is not made now: it is under way, or has failed and is put off."""
    if write.index in gathered.memory.held | gathered.memory.under_way:
        return True
    put_off = gathered.memory.put_off.get(write.index)
    return put_off is not None and put_off.holds(documents.attempt(write), now)


def _without(held: Iterable[ShardWrite], after: Contents, present: Contents) -> Contents:
    """Return the content of the shards after all writes but these."""
    contents = dict(after)
    for write in held:
        if write.index in present:
            contents[write.index] = present[write.index]
        else:
            contents.pop(write.index, None)
    return contents


def _put_off_waits(
    gathered: Gathered, held: Iterable[ShardWrite], now: datetime
) -> Iterator[Deferred]:
    for write in held:
        put_off = gathered.memory.put_off.get(write.index)
        if put_off is not None and write.index not in gathered.memory.under_way:
            yield Deferred(max(put_off.until, now), f"the write of {write.name} is deferred")


def _is_seen(gathered: Gathered, digest: str) -> bool:
    """Tell whether every pod has seen the shards as they are: one that does not say so has not.

    A pod that ends counts until it has ended: it still serves what it was asked for.
    """
    reports = (gathered.reports.get(pod.uid) for pod in gathered.pods if not pod.has_finished)
    return all(report is not None and report.config_digest == digest for report in reports)


def _behind(gathered: Gathered, digest: str) -> list[PodView]:
    """Return the live pods whose own report shows another configuration, in order."""
    nothing = documents.seen_digest(())
    found = []
    for pod in sorted(gathered.pods, key=lambda pod: pod.name):
        report = gathered.reports.get(pod.uid)
        if pod.is_desired and report is not None and (report.config_digest or nothing) != digest:
            found.append(pod)
    return found


def _nudges(
    gathered: Gathered, digest: str, now: datetime
) -> tuple[tuple[Nudge, ...], list[Deferred]]:
    """Nudge each pod that is behind: once for each digest, again if that shows no effect."""
    nudges: list[Nudge] = []
    waits: list[Deferred] = []
    for pod in _behind(gathered, digest):
        put_off = gathered.memory.unnudged.get(pod.uid)
        if put_off is not None and now < put_off.until:
            waits.append(Deferred(put_off.until, f"the nudge of {pod.name} is deferred"))
            continue
        base, count = _last_nudge(pod)
        if base != digest:
            nudges.append(Nudge(pod.name, pod.uid, digest, "the pod has not seen the shards"))
            waits.append(Deferred(now + NUDGE_AGAIN, f"{pod.name} was nudged"))
            continue
        pause = min(NUDGE_AGAIN * 2 ** min(count - 1, 8), LONGEST_NUDGE_PAUSE)
        due = gathered.memory.nudged.get(pod.uid, now) + pause
        if due <= now:
            value = f"{digest}/{count + 1}"
            nudges.append(Nudge(pod.name, pod.uid, value, f"nudge {count} had no effect"))
            following = min(pause * 2, LONGEST_NUDGE_PAUSE)
            waits.append(Deferred(now + following, f"{pod.name} was nudged"))
        else:
            waits.append(Deferred(due, f"{pod.name} was nudged"))
    return tuple(nudges), waits


def _last_nudge(pod: PodView) -> tuple[str, int]:
    """Return the digest that the pod was last nudged for, and how often."""
    base, _, counter = pod.annotations.get(names.CONFIG_ANNOTATION, "").partition("/")
    return base, int(counter) if counter.isascii() and counter.isdigit() else 1


def _move_wait(gathered: Gathered, placed: Placement, now: datetime) -> Deferred:
    since = [gathered.memory.doubled.get(name, now) for name in placed.moving]
    return Deferred(
        max(min(since) + MOVE_GRACE, now + NUDGE_AGAIN),
        "a moved entry waits for the pods to see its new shard",
    )


def _statuses(
    gathered: Gathered,
    placed: Placement,
    contents: Contents,
    held: Iterable[ShardWrite],
    now: datetime,
) -> tuple[StatusWrite, ...]:
    """Return the statuses that differ, of models whose entry is in its shard.

    None at all while a pod's report could not be read and was never read before: what the pod
    serves is not known, and each status tells of all pods.
    """
    unknown = gathered.unread - set(gathered.reports)
    if any(pod.is_desired and pod.uid in unknown for pod in gathered.pods):
        return ()
    writes = []
    told = _told_refusals(gathered, held, now)
    service = gathered.key.service
    reports = {
        uid: report
        for uid, report in gathered.reports.items()
        if report.inference_service == service
    }
    stale = {uid for uid, one in gathered.staleness.items() if one.is_stale}
    pod_views = PodViews(gathered.pods, reports, stale)
    path = urls.server_path(reports.values())
    for model in sorted(gathered.models, key=lambda model: model.name):
        verdict = placed.verdicts[model.name]
        if verdict.accepted and not _is_written(model, placed, contents):
            refused = _refusal(gathered, model, placed, told)
            if refused is None:
                continue
            verdict = refused
        url = _url(gathered, model, path) if verdict.accepted else None
        wanted = status.status_by(pod_views, model, verdict, now, url=url)
        if not status.is_same(model.status, wanted):
            writes.append(StatusWrite(model.name, model.uid, model.status, wanted))
    return tuple(writes)


def _url(gathered: Gathered, model: DesiredModel, path: str | None) -> str | None:
    if not gathered.service.is_known:
        told = model.status.get("url")
        return None if told is None else str(told)
    name = model.model.served_name if model.model is not None else None
    return None if name is None else urls.model_url(gathered.service.url, path, name)


def _is_written(model: DesiredModel, placed: Placement, contents: Contents) -> bool:
    if model.name in placed.waiting:
        return False
    home = placed.homes[model.name]
    there = contents.get(home, {}).get(names.entry_key(model.name))
    return there == placed.entries[home][model.name]


Told = Mapping[int, tuple[ShardWrite, PutOff]]


def _told_refusals(gathered: Gathered, held: Iterable[ShardWrite], now: datetime) -> Told:
    """Return the failed writes that statuses are to show, by shard."""
    found = ((write, gathered.memory.put_off.get(write.index)) for write in held)
    return {
        write.index: (write, put_off)
        for write, put_off in found
        if put_off is not None and put_off.is_told(now)
    }


def _refusal(
    gathered: Gathered, model: DesiredModel, placed: Placement, told: Told
) -> Verdict | None:
    """Say why a model's entry is not written; None if that is not known, or not worth telling."""
    wait = placed.waiting.get(model.name)
    found = told.get(placed.homes[model.name] if wait is None else wait.shard)
    if found is None:
        return None
    write, put_off = found
    how = "refused to write" if put_off.kind is Kind.REFUSED else "did not write"
    message = f"The API server {how} ConfigMap {write.name}: "
    message = f"{message}{put_off.words.rstrip('.')}. The operator tries again."
    if wait is not None:
        message += (
            f" This model needs the memory of {wait.leaver}, which is still in that ConfigMap."
        )
    key = names.entry_key(model.name)
    if any(view.is_ours and key in view.data for view in gathered.shards):
        message += " The last good entry stays in force."
    return Verdict(accepted=False, reason=Reason.SHARD_REFUSED, message=message)
