"""The report: one state and one reason for each model, in the contract's words.

The plan and the faults have the reasons and messages; this module combines them. A model is
`Loaded` only if the server says ready *and* the puller saw that server confirm this revision. While
the server's state is in doubt, the last known state stands, and `server.reachable` is false.

The loop makes a report in every pass, and nearly always nothing has changed. So the previous report
is an argument, and each unchanged model stays the same object: a comparison of two reports compares
identities first. `bounds` decides how much of the report goes into a ModelReport.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from operator import is_
from typing import Final

from trainedmodel_contract.modelreport import MAX_MESSAGE, ReportedModel
from trainedmodel_contract.reasons import Reason, State

from trainedmodel_puller.core.state import (
    Deferred,
    DesiredState,
    DiskModel,
    Failure,
    ObservedState,
    ServerState,
    Stage,
    Transfer,
    WantedModel,
)

#: Reasons that go away when something else changes, not with the next try.
_BLOCKING: Final = frozenset(
    {
        Reason.INSUFFICIENT_DISK,
        Reason.INSUFFICIENT_MEMORY,
        Reason.FOLDER_NOT_OURS,
        Reason.SERVER_FULL,
    }
)
#: Progress is reported in steps of a hundredth, or of a mebibyte while the size is unknown.
_STEPS: Final = 100
_STEP_BYTES: Final = 2**20
#: Looking a member up in its enumeration takes longer than comparing with it.
_LOADED: Final = State.LOADED.value
#: States in which a model may stay; any other is followed by another one soon.
SETTLED: Final = frozenset({State.LOADED, State.FAILED, State.BLOCKED})
#: A settled model is `{state: Loaded, revision}`.
_SETTLED_FIELDS: Final = 2
_NOTHING: Final[Mapping[str, ReportedModel]] = {}


def report_models(
    desired: DesiredState,
    observed: ObservedState,
    deferred: Iterable[Deferred],
    previous: dict[str, ReportedModel] | None = None,
) -> dict[str, ReportedModel]:
    """Return the report of each model, by metadata.name.

    `previous` never changes the result, only its cost: an unchanged model is the same object, and
    if all are unchanged, `previous` itself is returned. Callers must not change it.
    """
    before = _NOTHING if previous is None else previous
    waiting = {item.name: item for item in deferred}
    disk, server, ready = observed.disk, observed.server.models, ServerState.READY
    told = observed.server.revisions
    models: dict[str, ReportedModel] = {}
    for name, wanted in desired.models.items():
        model_id, revision = wanted.id, wanted.entry.revision
        old = before.get(model_id)
        held = disk.get(name)
        served = held.loaded if held and server.get(name) is ready else None
        if told and served is not None:
            served = told.get(name, served) or None
        elif served == revision and held is not None and held.trying is not None:
            served = None  # it was told to load another one since
        if served != revision:
            new = _wanted_model(wanted, observed, waiting.get(name), served)
            old = _same(old, new)
        elif (
            old is None
            or old.revision != revision
            or old.state != _LOADED
            or len(old.model_fields_set) != _SETTLED_FIELDS
        ):
            old = ReportedModel(state=State.LOADED, revision=revision)
        models[model_id] = old
    for model_id, fault in desired.faults.items():
        new = _faulty_model(models.get(model_id), fault.reason, fault.message)
        models[model_id] = _same(before.get(model_id), new)
    if desired.is_known:
        for name in disk.keys() - desired.models.keys():
            held = disk[name]
            model_id = held.id or name
            if not held.is_foreign and model_id not in models:
                new = _leaving_model(name, held, observed)
                models[model_id] = _same(before.get(model_id), new)
    return models if previous is None or not _is_same(previous, models) else previous


def _same(old: ReportedModel | None, new: ReportedModel) -> ReportedModel:
    return old if old == new and old is not None else new


def _is_same(before: Mapping[str, ReportedModel], after: Mapping[str, ReportedModel]) -> bool:
    return len(before) == len(after) and all(map(is_, map(before.get, after), after.values()))


def _faulty_model(served: ReportedModel | None, reason: Reason, message: str) -> ReportedModel:
    loaded = None
    if served is not None:
        loaded = served.revision if served.state == State.LOADED else served.loaded_revision
    return ReportedModel(
        state=State.BLOCKED if reason is Reason.NAME_CONFLICT else State.FAILED,
        revision=served.revision if served else None,
        loaded_revision=loaded,
        reason=reason,
        message=_words(message),
    )


def _wanted_model(
    wanted: WantedModel,
    observed: ObservedState,
    waiting: Deferred | None,
    served: str | None,
) -> ReportedModel:
    name, revision = wanted.entry.name, wanted.entry.revision
    transfer = observed.transfers.get(name)
    if transfer is not None and transfer.revision != revision:
        transfer = None
    failure = observed.failures.get((name, revision))
    if failure is not None and not (transfer and transfer.received_bytes):
        return _failed_model(failure, revision, served)
    if transfer is not None:
        return _transferring_model(transfer, failure, revision, served)
    if observed.server_actions.get(name) is Stage.LOAD:
        return ReportedModel(
            state=State.LOADING,
            revision=revision,
            loaded_revision=served,
            reason=Reason.IN_PROGRESS,
        )
    if waiting is None:
        return ReportedModel(
            state=State.WAITING, revision=revision, loaded_revision=served, reason=Reason.QUEUED
        )
    is_blocked = waiting.is_blocked or waiting.reason in _BLOCKING
    return ReportedModel(
        state=State.BLOCKED if is_blocked else State.WAITING,
        revision=revision,
        loaded_revision=served,
        reason=waiting.reason,
        message=_words(waiting.message),
    )


def _failed_model(failure: Failure, revision: str, served: str | None) -> ReportedModel:
    return ReportedModel(
        state=State.BLOCKED if failure.reason in _BLOCKING else State.FAILED,
        revision=revision,
        loaded_revision=served,
        reason=failure.reason,
        message=_words(failure.message),
        attempt=failure.count,
        failed_time=_time(failure.failed_time),
        next_retry_time=_time(failure.next_retry_time),
    )


def _transferring_model(
    transfer: Transfer, failure: Failure | None, revision: str, served: str | None
) -> ReportedModel:
    is_verifying = transfer.stage is Stage.VERIFY
    return ReportedModel(
        state=State.VERIFYING if is_verifying else State.DOWNLOADING,
        revision=revision,
        loaded_revision=served,
        reason=Reason.IN_PROGRESS,
        bytes=_in_steps(transfer.received_bytes, transfer.total_bytes) or None,
        total_bytes=transfer.total_bytes,
        attempt=failure.count if failure else None,
    )


def _in_steps(received: int, total: int | None) -> int:
    """Round progress down, so that a report is not rewritten for an invisible change."""
    if not total:
        return received - received % _STEP_BYTES
    if received >= total:
        return received
    return received - received % max(total // _STEPS, 1)


def _leaving_model(name: str, disk: DiskModel, observed: ObservedState) -> ReportedModel:
    served = disk.loaded if observed.server.state_of(name) is ServerState.READY else None
    failure = observed.failures.get((name, ""))
    if failure is not None:
        return ReportedModel(
            state=State.UNLOADING,
            loaded_revision=served,
            reason=failure.reason,
            message=_words(failure.message),
            attempt=failure.count,
            failed_time=_time(failure.failed_time),
            next_retry_time=_time(failure.next_retry_time),
        )
    if disk.doubt is not None:
        words = _words(f"its files cannot be read: {disk.doubt}")
        return ReportedModel(
            state=State.UNLOADING,
            loaded_revision=served,
            reason=Reason.VOLUME_ERROR,
            message=words,
        )
    return ReportedModel(state=State.UNLOADING, loaded_revision=served, reason=Reason.IN_PROGRESS)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds), UTC)


def _words(message: str) -> str:
    """Cut a message to the contract's length, of characters that JSON has.

    A file name that is not UTF-8 reaches messages with lone surrogates in it.
    """
    return message[:MAX_MESSAGE].encode("utf-8", "replace").decode()


def diff_models(
    before: Mapping[str, ReportedModel], after: Mapping[str, ReportedModel]
) -> dict[str, dict[str, object] | None]:
    """Return the merge patch of a report's `models`: fields that changed, None for what is gone.

    A merge patch keeps fields that it does not name, so fields that went away are named as None.
    """
    patch: dict[str, dict[str, object] | None] = {}
    for model_id, model in after.items():
        old = before.get(model_id)
        if old is model:
            continue
        if old is None:
            patch[model_id] = model.to_dict()
        elif old != model or old.is_brief != model.is_brief:
            patch[model_id] = _diff_fields(old.to_dict(), model.to_dict())
    for model_id in before.keys() - after.keys():
        patch[model_id] = None
    return patch


def _diff_fields(old: dict[str, object], new: dict[str, object]) -> dict[str, object]:
    changed = {key: value for key, value in new.items() if old.get(key) != value}
    return changed | {key: None for key in old if key not in new}


def is_only_progress(patch: Mapping[str, Mapping[str, object] | None]) -> bool:
    """Return whether a patch of `diff_models` says nothing but how far downloads are."""
    return all(change is not None and change.keys() <= {"bytes"} for change in patch.values())


def is_on_the_way(
    patch: Mapping[str, Mapping[str, object] | None], models: Mapping[str, ReportedModel]
) -> bool:
    """Return whether a patch of `diff_models` is of nothing but models with more to come soon."""
    return all(
        change is not None and models[model_id].state not in SETTLED
        for model_id, change in patch.items()
    )
