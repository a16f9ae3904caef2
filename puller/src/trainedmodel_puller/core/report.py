"""What the puller says: one state and one reason for each model, in the contract's words.

The words are born in the plan and in the faults; here they are only put together. The server is
the witness: a model is `Loaded` when the server says ready *and* the puller saw that server
confirm this revision. While the server's state is in doubt the last known truth stands, and
`server.reachable` says that it is in doubt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from trainedmodel_contract.modelreport import MAX_MESSAGE, ReportedModel
from trainedmodel_contract.reasons import Reason, State

from trainedmodel_puller.core.plan import NOTHING
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


def report_models(
    desired: DesiredState,
    observed: ObservedState,
    deferred: Iterable[Deferred],
) -> dict[str, ReportedModel]:
    """Say of each model, by metadata.name, where it is."""
    waiting = {item.name: item for item in deferred}
    models: dict[str, ReportedModel] = {}
    for name, wanted in desired.models.items():
        models[wanted.id] = _wanted_model(wanted, observed, waiting.get(name))
    for model_id, fault in desired.faults.items():
        served = models.get(model_id)
        models[model_id] = ReportedModel(
            state=State.FAILED if fault.reason is not Reason.NAME_CONFLICT else State.BLOCKED,
            revision=served.revision if served else None,
            loaded_revision=_loaded_revision(served),
            reason=fault.reason,
            message=fault.message[:MAX_MESSAGE],
        )
    if desired.is_known:
        for name in observed.disk.keys() - desired.models.keys():
            disk = observed.disk[name]
            if not disk.is_foreign:
                models.setdefault(disk.id or name, _leaving_model(name, disk, observed))
    return models


def _loaded_revision(served: ReportedModel | None) -> str | None:
    if served is None:
        return None
    return served.revision if served.state == State.LOADED else served.loaded_revision


def served_revision(name: str, observed: ObservedState) -> str | None:
    """Return the revision that the server was last seen to serve under this name, if any."""
    if observed.server.state_of(name) is not ServerState.READY:
        return None
    return observed.disk.get(name, NOTHING).loaded


def _wanted_model(
    wanted: WantedModel,
    observed: ObservedState,
    waiting: Deferred | None,
) -> ReportedModel:
    name, revision = wanted.entry.name, wanted.entry.revision
    served = served_revision(name, observed)
    if served == revision:
        return ReportedModel(state=State.LOADED, revision=revision)
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
    return ReportedModel(
        state=State.BLOCKED if waiting.is_blocked else State.WAITING,
        revision=revision,
        loaded_revision=served,
        reason=waiting.reason,
        message=waiting.message[:MAX_MESSAGE],
    )


def _failed_model(failure: Failure, revision: str, served: str | None) -> ReportedModel:
    is_blocked = failure.reason in {Reason.INSUFFICIENT_DISK, Reason.FOLDER_NOT_OURS}
    return ReportedModel(
        state=State.BLOCKED if is_blocked else State.FAILED,
        revision=revision,
        loaded_revision=served,
        reason=failure.reason,
        message=failure.message[:MAX_MESSAGE],
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
        bytes=transfer.received_bytes or None,
        total_bytes=transfer.total_bytes,
        attempt=failure.count if failure else None,
    )


def _leaving_model(name: str, disk: DiskModel, observed: ObservedState) -> ReportedModel:
    served = served_revision(name, observed)
    failure = observed.failures.get((name, ""))
    if failure is not None:
        return ReportedModel(
            state=State.UNLOADING,
            loaded_revision=served,
            reason=failure.reason,
            message=failure.message[:MAX_MESSAGE],
            attempt=failure.count,
            failed_time=_time(failure.failed_time),
            next_retry_time=_time(failure.next_retry_time),
        )
    return ReportedModel(state=State.UNLOADING, loaded_revision=served, reason=Reason.IN_PROGRESS)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds), UTC)


def diff_models(
    before: Mapping[str, ReportedModel], after: Mapping[str, ReportedModel]
) -> dict[str, dict[str, object] | None]:
    """Return the merge patch of a report's `models`: what changed, and None for what is gone.

    A merge patch keeps fields that it does not name, so fields that went away are named as None.
    """
    patch: dict[str, dict[str, object] | None] = {}
    for model_id, model in after.items():
        old = before.get(model_id)
        if old == model:
            continue
        new = model.to_dict()
        gone = {} if old is None else {key: None for key in old.to_dict() if key not in new}
        patch[model_id] = {**new, **gone}
    for model_id in before:
        if model_id not in after:
            patch[model_id] = None
    return patch
