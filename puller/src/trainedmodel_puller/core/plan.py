"""The plan: from desired and observed state to actions. Total, deterministic, pure.

While the volume cannot be read, nothing is planned at all (`_await_volume`).

Rules for a name that is wanted, in order; each is a function below:

0. `_await_look`       its files could not be read: nothing is planned on an unknown state
1. `_keep_foreign`     a folder that the puller did not make is never touched: blocked
2. `_settle`           published, loaded and confirmed by the server: only leftovers are removed
3. `_admit_memory`     declared memory beyond the budget: blocked
4. `_fetch`            the revision is not on disk, or its load failed and the source may have been
                       mended: download, unless backing off, out of slots, or another name is
                       fetching the same source; a download of another revision is cancelled
5. `_await_server`     no decision about loads while the server's state is in doubt (P2), or while
                       it is loading or unloading this name
6. `_load`             the revision is on disk: load, unless backing off or out of slots
7. `_restore`          the wanted revision cannot be loaded yet, but the server has lost the one
                       that it had served and its files are still there: load that again (P10)

Rules for a name that is not wanted:

8. `_unload`           the server has it, or was last confirmed to have it: unload (P3)
9. `_remove`           the server is known not to have it: delete its files

And for all names together, last:

10. `_tidy`            replaced revisions beyond the limits for rollbacks are removed, and more of
                       them if a download waits for their space (`core.room`)

Until the configuration has been read once, no name counts as unwanted (P1).

A plan may be made for some names only. So the next model in a queue starts as soon as a slot is
free, without planning ten thousand others; rule 10 is then left out.

A transfer and a server action of one name may run at the same time (an old revision is restored
while a new one downloads); two of a kind never do. Slots go first to models without failures, so
that broken models never block the others (P12), and then to models that the server had before. An
action that holds a slot for long (a load of more than half a second, a download that gets no byte)
gives it back, up to a bound: one that hangs does not stop the others (P12).
"""

from __future__ import annotations

from collections.abc import Collection, Set
from typing import Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.draft import NOTHING, Draft, is_on_disk
from trainedmodel_puller.core.room import (
    Kept,
    evict,
    fits_now,
    kept_trees,
    missing_bytes,
    removed_bytes,
    surplus,
)
from trainedmodel_puller.core.state import (
    DesiredState,
    DiskModel,
    Download,
    Failure,
    Instant,
    Limits,
    Load,
    ObservedState,
    Plan,
    Remove,
    ServerState,
    ServerView,
    Stage,
    Unload,
    WantedModel,
)

#: Pause until the next check of a server that is loading or unloading a name by itself.
POLL_S: Final = 0.5
#: How soon to look again at what could not be looked at.
DOUBT_S: Final = 1.0


def plan(
    desired: DesiredState,
    observed: ObservedState,
    limits: Limits,
    now: Instant,
    only: Collection[str] | None = None,
) -> Plan:
    """Decide what to do now, for all names or for `only` some. See the module for the rules."""
    draft = Draft(desired, observed, limits, now)
    if observed.volume_doubt is not None:
        _await_volume(draft, observed.volume_doubt, only)
        return _made(draft)
    known = observed.disk.keys() | observed.transfers.keys() if only is None else only
    if desired.is_known:
        for name in sorted(set(known) - desired.models.keys()):
            if name in observed.transfers:
                draft.cancelled.append(name)
            if name in observed.disk:
                _plan_unwanted(draft, name, observed.disk[name])
    models = desired.models
    names = models if only is None else [name for name in only if name in models]
    unsettled = [models[name] for name in names if not _settle(draft, name, models[name])]
    unsettled.sort(key=lambda wanted: _priority(draft, wanted))
    for wanted in unsettled:
        _plan_wanted(draft, wanted)
    if only is None:
        _tidy(draft)
    return _made(draft)


def _made(draft: Draft) -> Plan:
    return Plan(
        tuple(draft.actions),
        tuple(draft.cancelled),
        tuple(draft.deferred),
        tuple(draft.queued_downloads),
        tuple(draft.queued_loads),
    )


def _await_volume(draft: Draft, why: str, only: Collection[str] | None) -> None:
    until = draft.now + DOUBT_S
    observed = draft.observed
    for name, wanted in draft.desired.models.items():
        disk = observed.disk.get(name, NOTHING)
        if (only is None or name in only) and not _is_settled(name, wanted, disk, observed.server):
            words = f"the model volume cannot be read: {why}"
            draft.defer(name, Reason.VOLUME_ERROR, words, until)


def _await_look(draft: Draft, name: str, disk: DiskModel) -> bool:
    if disk.doubt is None:
        return False
    words = f"its files cannot be read: {disk.doubt}"
    draft.defer(name, Reason.VOLUME_ERROR, words, draft.now + DOUBT_S)
    return True


def _priority(draft: Draft, wanted: WantedModel) -> tuple[int, bool, str]:
    name = wanted.entry.name
    failure = draft.observed.failures.get((name, wanted.entry.revision))
    is_new = draft.observed.disk.get(name, NOTHING).loaded is None
    return (failure.count if failure else 0, is_new, name)


def _plan_wanted(draft: Draft, wanted: WantedModel) -> None:
    name = wanted.entry.name
    disk = draft.observed.disk.get(name, NOTHING)
    if _await_look(draft, name, disk) or _keep_foreign(draft, name, disk):
        return
    failure = _active_failure(draft, wanted)
    is_waiting = failure is not None and draft.now < failure.until
    if is_waiting and failure is not None:
        draft.defer(name, failure.reason, failure.message, failure.until)
        is_waiting = not fits_now(failure, draft.available, draft.now)
        if name not in draft.observed.transfers:  # an admitted model has its room
            freeing = draft.observed.freeing_bytes
            missing = missing_bytes(failure, draft.available, freeing)
            draft.missing_bytes = max(draft.missing_bytes, missing)
    is_refused = _refuse_memory(draft, wanted)
    if not is_refused:
        _fetch(draft, wanted, failure, is_waiting=is_waiting)
    if name in draft.observed.server_actions or name in draft.observed.removals:
        return
    if _await_server(draft, name):
        return
    is_fetched = is_on_disk(wanted, disk) and not _needs_recheck(failure)
    if is_fetched and not is_refused and not is_waiting:
        _load(draft, wanted)
    else:
        _restore(draft, wanted, disk)


def _keep_foreign(draft: Draft, name: str, disk: DiskModel) -> bool:
    if not disk.is_foreign or disk.is_adoptable:
        return False
    draft.block(
        name,
        Reason.FOLDER_NOT_OURS,
        f"--model-dir has a folder {name!r} that the puller did not make: remove or rename it",
        draft.now + 10.0,
    )
    return True


def _is_settled(name: str, wanted: WantedModel, disk: DiskModel, server: ServerView) -> bool:
    revision = wanted.entry.revision
    return (
        disk.loaded == revision
        and revision in disk.published
        and disk.trying is None  # else the marker is of before another load call
        and server.is_known
        and server.models.get(name) is ServerState.READY
        and (not server.revisions or server.revisions.get(name, revision) == revision)
    )


def _settle(draft: Draft, name: str, wanted: WantedModel) -> bool:
    observed = draft.observed
    disk = observed.disk.get(name, NOTHING)
    if not _is_settled(name, wanted, disk, observed.server):
        return False
    if name in observed.transfers:
        draft.cancelled.append(name)
    elif (disk.is_staged or len(disk.trees) > 1) and _may_tidy(draft, name, disk):
        if len(disk.trees) > 1:
            draft.kept.extend(kept_trees(name, disk, wanted.entry.revision))
        if disk.is_staged:
            draft.actions.append(Remove(name, is_staging=True, reason="its download was cancelled"))
    return True


def _may_tidy(draft: Draft, name: str, disk: DiskModel) -> bool:
    observed = draft.observed
    failure = observed.failures.get((name, "")) if observed.failures else None
    return (
        disk.doubt is None
        and name not in observed.server_actions
        and name not in observed.removals
        and (failure is None or draft.now >= failure.until)
    )


def _active_failure(draft: Draft, wanted: WantedModel) -> Failure | None:
    failure = draft.observed.failures.get((wanted.entry.name, wanted.entry.revision))
    return failure if failure is not None and failure.entry == wanted.entry else None


def _needs_recheck(failure: Failure | None) -> bool:
    return failure is not None and failure.stage is Stage.LOAD and not failure.is_rechecked


def _refuse_memory(draft: Draft, wanted: WantedModel) -> bool:
    why = draft.memory.refusal(wanted)
    if why is not None:
        draft.block(wanted.entry.name, Reason.INSUFFICIENT_MEMORY, why)
    return why is not None


def _fetch(draft: Draft, wanted: WantedModel, failure: Failure | None, *, is_waiting: bool) -> None:
    name = wanted.entry.name
    transfer = draft.observed.transfers.get(name)
    if transfer is not None:
        if transfer.revision != wanted.entry.revision:
            draft.cancelled.append(name)
        return
    disk = draft.observed.disk.get(name, NOTHING)
    if is_waiting or (is_on_disk(wanted, disk) and not _needs_recheck(failure)):
        return
    if name in draft.observed.removals or name in draft.observed.server_actions:
        return  # files of this name are being moved; the end of that is the next pass
    if draft.download_slots <= 0:
        draft.queued_downloads.append(name)
        draft.defer(name, Reason.QUEUED, "waiting for a download slot", draft.download_slot_at)
        return
    same_source_in_flight = draft.same_source_in_flight(wanted)
    if same_source_in_flight is not None:
        draft.defer(
            name,
            Reason.QUEUED,
            f"waiting for the fetch of the same source: {same_source_in_flight!r}",
        )
        return
    draft.download_slots -= 1
    draft.actions.append(Download(name, wanted.id, wanted.entry))


def _await_server(draft: Draft, name: str) -> bool:
    server = draft.observed.server
    if not server.is_known:
        message = server.message or "the model server has not answered yet"
        draft.defer(name, Reason.SERVER_UNREACHABLE, message)
        return True
    state = server.state_of(name)
    if state in {ServerState.LOADING, ServerState.UNLOADING}:
        draft.defer(
            name, Reason.IN_PROGRESS, f"the model server is {state.lower()} it", draft.now + POLL_S
        )
        return True
    return False


def _load(draft: Draft, wanted: WantedModel) -> None:
    name = wanted.entry.name
    if name in draft.observed.transfers:
        return
    if not draft.takes_load_slot(name):
        return
    draft.actions.append(Load(name, wanted.id, wanted.entry.revision, "wanted"))


def _restore(draft: Draft, wanted: WantedModel, disk: DiskModel) -> None:
    name = wanted.entry.name
    if (
        disk.loaded is None
        or disk.loaded not in disk.trees
        or disk.loaded == wanted.entry.revision
        or draft.observed.server.state_of(name) is not ServerState.ABSENT
    ):
        return
    failure = draft.observed.failures.get((name, disk.loaded))
    if failure is not None and draft.now < failure.until:
        return
    if not draft.takes_load_slot(name):
        return
    draft.actions.append(Load(name, wanted.id, disk.loaded, "restore"))


def _plan_unwanted(draft: Draft, name: str, disk: DiskModel) -> None:
    observed = draft.observed
    if disk.is_foreign or name in observed.server_actions or name in observed.removals:
        return
    if name in observed.transfers:
        return  # cancelled by the caller; its end is the next pass
    if _await_look(draft, name, disk):
        return
    failure = observed.failures.get((name, ""))
    if failure is not None and draft.now < failure.until:
        draft.defer(name, failure.reason, failure.message, failure.until)
        return
    if _await_server(draft, name):
        return
    if not _unload(draft, name, disk):
        draft.actions.append(Remove(name))


def _unload(draft: Draft, name: str, disk: DiskModel) -> bool:
    if disk.loaded is None and draft.observed.server.state_of(name) is ServerState.ABSENT:
        return False
    if draft.takes_load_slot(name):
        draft.actions.append(Unload(name))
    return True


def _tidy(draft: Draft) -> None:
    gone = dict.fromkeys(surplus(draft.kept, draft.limits), "beyond the limits of kept revisions")
    if draft.missing_bytes > 0:
        gone |= dict.fromkeys(_make_room(draft, gone.keys()), "space for another model")
    by_name: dict[str, list[Kept]] = {}
    for tree in gone:
        by_name.setdefault(tree.name, []).append(tree)
    for name, trees in sorted(by_name.items()):
        revisions = frozenset(tree.revision for tree in trees)
        draft.actions.append(Remove(name, revisions, reason=gone[trees[0]]))


def _make_room(draft: Draft, gone: Set[Kept]) -> list[Kept]:
    """Return the kept trees to evict for a model without space, beside those in `gone`."""
    disks = draft.observed.disk
    removals = [action for action in draft.actions if isinstance(action, Remove)]
    going = sum(removed_bytes(action, disks.get(action.name, NOTHING)) for action in removals)
    missing = draft.missing_bytes - going - sum(tree.size for tree in gone)
    for name, wanted in draft.desired.models.items():
        disk = disks.get(name)
        if disk is None or name in draft.observed.transfers:
            continue
        if _may_tidy(draft, name, disk) and disk.loaded != wanted.entry.revision:
            draft.kept.extend(kept_trees(name, disk, wanted.entry.revision))
    return evict([tree for tree in draft.kept if tree not in gone], missing)
