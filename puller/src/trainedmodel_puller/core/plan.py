"""The plan: from desired and observed state to actions. Total, deterministic, pure.

Rules for a name that is wanted, in order; each is a function below:

1. `_keep_foreign`     a folder that the puller did not make is never touched: blocked
2. `_settle`           published, loaded and confirmed by the server: only leftovers are removed
3. `_fetch`            the revision is not on disk, or its load failed and the source may have been
                       mended: download, unless backing off or out of slots; a download of another
                       revision is cancelled
4. `_await_server`     no decision about loads while the server's state is in doubt (P2), or while
                       it is loading or unloading this name
5. `_load`             the revision is on disk: load, unless backing off or out of slots
6. `_restore`          the wanted revision is not there yet, but the server has lost the one that it
                       had served and its files are still in place: load that again (P10)

Rules for a name that is not wanted:

7. `_unload`           the server has it, or was last confirmed to have it: unload (P3)
8. `_remove`           the server is known not to have it: delete its files

While the configuration was never read, nothing is unwanted (P1).

A transfer and a server action of one name may run side by side (an old revision is restored while
a new one downloads); two of a kind never do. Slots go to models without failures first, so that
broken ones never crowd out the others (P12).
"""

from __future__ import annotations

from typing import Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.state import (
    Action,
    Deferred,
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
    Stage,
    Unload,
    WantedModel,
)

#: How soon to look again at a server that is loading or unloading a name by itself.
POLL_S: Final = 0.5
NOTHING: Final = DiskModel()


class _Draft:
    """A plan in the making, and the slots left."""

    def __init__(self, observed: ObservedState, limits: Limits, now: Instant) -> None:
        self.observed = observed
        self.now = now
        self.actions: list[Action] = []
        self.cancelled: list[str] = []
        self.deferred: list[Deferred] = []
        self.download_slots = limits.max_downloads - len(observed.transfers)
        self.load_slots = limits.max_loads - len(observed.server_actions)

    def defer(self, name: str, reason: Reason, message: str, until: Instant | None = None) -> None:
        self.deferred.append(Deferred(name, reason, message, until))


def plan(desired: DesiredState, observed: ObservedState, limits: Limits, now: Instant) -> Plan:
    """Decide what to do now. See the module for the rules."""
    draft = _Draft(observed, limits, now)
    if desired.is_known:
        for name in sorted(observed.disk.keys() - desired.models.keys()):
            _plan_unwanted(draft, name, observed.disk[name])
        for name in observed.transfers:
            if name not in desired.models:
                draft.cancelled.append(name)
    unsettled = [
        wanted for name, wanted in desired.models.items() if not _settle(draft, name, wanted)
    ]
    unsettled.sort(key=lambda wanted: _priority(draft, wanted))
    for wanted in unsettled:
        _plan_wanted(draft, wanted)
    return Plan(tuple(draft.actions), tuple(draft.cancelled), tuple(draft.deferred))


def _priority(draft: _Draft, wanted: WantedModel) -> tuple[int, str]:
    failure = draft.observed.failures.get((wanted.entry.name, wanted.entry.revision))
    return (failure.count if failure else 0, wanted.entry.name)


def _plan_wanted(draft: _Draft, wanted: WantedModel) -> None:
    name = wanted.entry.name
    disk = draft.observed.disk.get(name, NOTHING)
    if _keep_foreign(draft, name, disk):
        return
    failure = _active_failure(draft, wanted)
    if failure is not None and draft.now < failure.until:
        draft.defer(name, failure.reason, failure.message, failure.until)
    _fetch(draft, wanted, disk, failure)
    if name in draft.observed.server_actions or name in draft.observed.removals:
        return
    if _await_server(draft, name):
        return
    if _is_on_disk(wanted, disk) and not _needs_recheck(failure):
        _load(draft, wanted, failure)
    else:
        _restore(draft, wanted, disk)


def _keep_foreign(draft: _Draft, name: str, disk: DiskModel) -> bool:
    if not disk.is_foreign:
        return False
    draft.deferred.append(
        Deferred(
            name,
            Reason.FOLDER_NOT_OURS,
            f"a folder {name!r} that the puller did not make is in the model folder: "
            "remove or rename it",
            draft.now + 10.0,
            is_blocked=True,
        )
    )
    return True


def _settle(draft: _Draft, name: str, wanted: WantedModel) -> bool:
    disk = draft.observed.disk.get(name)
    revision = wanted.entry.revision
    if disk is None or disk.loaded != revision or disk.published != revision or disk.is_foreign:
        return False
    server = draft.observed.server
    if not server.is_known or server.models.get(name) is not ServerState.READY:
        return False
    if name in draft.observed.transfers:
        draft.cancelled.append(name)
    elif _may_tidy(draft, name):
        draft.actions.extend(Remove(name, old) for old in sorted(disk.versions))
        if disk.is_staged and not disk.versions:
            draft.actions.append(Remove(name, is_staging=True))
    return True


def _may_tidy(draft: _Draft, name: str) -> bool:
    observed = draft.observed
    failure = observed.failures.get((name, ""))
    return (
        name not in observed.server_actions
        and name not in observed.removals
        and (failure is None or draft.now >= failure.until)
    )


def _active_failure(draft: _Draft, wanted: WantedModel) -> Failure | None:
    failure = draft.observed.failures.get((wanted.entry.name, wanted.entry.revision))
    return failure if failure is not None and failure.entry == wanted.entry else None


def _is_on_disk(wanted: WantedModel, disk: DiskModel) -> bool:
    return wanted.entry.revision == disk.published or wanted.entry.revision in disk.versions


def _needs_recheck(failure: Failure | None) -> bool:
    return failure is not None and failure.stage is Stage.LOAD and not failure.is_rechecked


def _fetch(draft: _Draft, wanted: WantedModel, disk: DiskModel, failure: Failure | None) -> None:
    name = wanted.entry.name
    transfer = draft.observed.transfers.get(name)
    if transfer is not None:
        if transfer.revision != wanted.entry.revision:
            draft.cancelled.append(name)
        return
    if _is_on_disk(wanted, disk) and not _needs_recheck(failure):
        return
    if failure is not None and draft.now < failure.until:
        return
    if name in draft.observed.removals or name in draft.observed.server_actions:
        return  # files of this name are being moved; the end of that is the next pass
    if draft.download_slots <= 0:
        draft.defer(name, Reason.QUEUED, "waits for a download slot")
        return
    draft.download_slots -= 1
    draft.actions.append(Download(name, wanted.id, wanted.entry))


def _await_server(draft: _Draft, name: str) -> bool:
    server = draft.observed.server
    if not server.is_known:
        message = server.message or "the model server has not answered yet"
        draft.defer(name, Reason.SERVER_UNREACHABLE, message)
        return True
    state = server.state_of(name)
    if state in {ServerState.LOADING, ServerState.UNLOADING}:
        draft.defer(
            name, Reason.IN_PROGRESS, f"the server is {state.lower()} it", draft.now + POLL_S
        )
        return True
    return False


def _load(draft: _Draft, wanted: WantedModel, failure: Failure | None) -> None:
    name, entry = wanted.entry.name, wanted.entry
    if name in draft.observed.transfers or (failure is not None and draft.now < failure.until):
        return
    if draft.load_slots <= 0:
        draft.defer(name, Reason.QUEUED, "waits for a load slot")
        return
    draft.load_slots -= 1
    draft.actions.append(Load(name, wanted.id, entry.revision, entry, "wanted"))


def _restore(draft: _Draft, wanted: WantedModel, disk: DiskModel) -> None:
    name = wanted.entry.name
    if (
        disk.loaded is None
        or disk.published != disk.loaded
        or disk.loaded == wanted.entry.revision
        or draft.observed.server.state_of(name) is not ServerState.ABSENT
    ):
        return
    failure = draft.observed.failures.get((name, disk.loaded))
    if failure is not None and draft.now < failure.until:
        return
    if draft.load_slots <= 0:
        draft.defer(name, Reason.QUEUED, "waits for a load slot")
        return
    draft.load_slots -= 1
    draft.actions.append(Load(name, wanted.id, disk.loaded, None, "restore"))


def _plan_unwanted(draft: _Draft, name: str, disk: DiskModel) -> None:
    observed = draft.observed
    if disk.is_foreign or name in observed.server_actions or name in observed.removals:
        return
    if name in observed.transfers:
        return  # cancelled by the caller; its end is the next pass
    failure = observed.failures.get((name, ""))
    if failure is not None and draft.now < failure.until:
        draft.defer(name, failure.reason, failure.message, failure.until)
        return
    if _await_server(draft, name):
        return
    if not _unload(draft, name, disk):
        draft.actions.append(Remove(name))


def _unload(draft: _Draft, name: str, disk: DiskModel) -> bool:
    if disk.loaded is None and draft.observed.server.state_of(name) is ServerState.ABSENT:
        return False
    if draft.load_slots <= 0:
        draft.defer(name, Reason.QUEUED, "waits for a load slot")
        return True
    draft.load_slots -= 1
    draft.actions.append(Unload(name))
    return True
