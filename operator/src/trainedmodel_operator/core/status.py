"""Status: the truth about one TrainedModel, for people and for `kubectl wait`.

One pure function, `model_status`. What it returns is the whole status, and the writer replaces with
it whatever lay there before. Only three things
are taken from the former status: the time of a condition that did not change, the failure that a
copy is still retrying, and the revision while the spec is unusable.

Equal input gives an equal status, so a status that did not change is not written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from trainedmodel_contract.modelreport import ModelReport, ReportedModel
from trainedmodel_contract.reasons import SENTENCES, Reason, State
from trainedmodel_contract.trainedmodel import ACCEPTED, AVAILABLE, MAX_STATUS_PODS, READY

from trainedmodel_operator.core.copies import FAILED_STATES, Copy, judge_copies
from trainedmodel_operator.core.placement import Verdict
from trainedmodel_operator.core.state import DesiredModel, Document, PodView

Status = dict[str, Any]

#: All that a status may hold, in the order of the contract.
FIELDS: Final = (
    "observedGeneration",
    "revision",
    "state",
    "reason",
    "copies",
    "conditions",
    "lastFailure",
    "pods",
    "url",
)

_GIB: Final = 1024**3
_MIB: Final = 1024**2


def model_status(
    model: DesiredModel,
    verdict: Verdict,
    pods: Sequence[PodView],
    reports: Mapping[str, ModelReport],
    now: datetime,
) -> Status:
    """Return the status of one model.

    `reports` are by the uid of the pod that owns them. The state is that of the least advanced
    copy; a model that is not accepted is Blocked, and one without pods Pending (O7).
    """
    revision = model.model.revision() if model.model is not None else None
    copies = judge_copies(model.name, revision, pods, reports)
    ready = sum(copy.ready for copy in copies) if verdict.accepted else 0
    status: Status = {
        "observedGeneration": model.generation,
        "revision": revision or model.status.get("revision"),
        "copies": {
            "desired": len(copies),
            "ready": ready,
            "failed": sum(copy.state in FAILED_STATES for copy in copies),
            "summary": f"{ready}/{len(copies)}",
        },
        "conditions": [
            _dated(condition, model, now)
            for condition in (
                _accepted(verdict),
                _available(copies),
                _ready(verdict, copies),
            )
        ],
        "lastFailure": _last_failure(copies, model.status),
        "pods": _unsettled(copies),
        **_state(verdict, copies),
    }
    return {field: status[field] for field in FIELDS if status.get(field) not in (None, [])}


def is_same(told: Document, status: Status) -> bool:
    """Tell whether the status that lies there says what `status` says."""
    return dict(told) == status


def _state(verdict: Verdict, copies: Sequence[Copy]) -> Status:
    if not verdict.accepted:
        return {"state": State.BLOCKED.value, "reason": str(verdict.reason)}
    if not copies:
        return {"state": State.PENDING.value, "reason": Reason.NO_PODS.value}
    worst = copies[0]
    reason = worst.reason
    if worst.state is State.DOWNLOADING:
        reason = _percent(copies) or reason
    return {"state": worst.state.value, "reason": str(reason) or None}


def _percent(copies: Sequence[Copy]) -> str | None:
    """Return the progress of all downloads together, None while no size is known."""
    received = total = 0
    for copy in copies:
        said = copy.reported
        if copy.state is State.DOWNLOADING and said is not None and said.total_bytes:
            received += min(said.bytes or 0, said.total_bytes)
            total += said.total_bytes
    return f"{100 * received // total}%" if total else None


def _accepted(verdict: Verdict) -> Status:
    return _condition(ACCEPTED, verdict.accepted, verdict.reason, verdict.message)


def _available(copies: Sequence[Copy]) -> Status:
    count = sum(copy.available for copy in copies)
    if count:
        message = f"{count} of {len(copies)} pods serve the model, in some revision."
        return _condition(AVAILABLE, True, Reason.COPIES_AVAILABLE, message)
    reason = Reason.NO_COPY_AVAILABLE if copies else Reason.NO_PODS
    return _condition(AVAILABLE, False, reason, SENTENCES[reason])


def _ready(verdict: Verdict, copies: Sequence[Copy]) -> Status:
    if not verdict.accepted:
        return _condition(READY, False, verdict.reason, verdict.message)
    if not copies:
        return _condition(READY, False, Reason.NO_PODS, SENTENCES[Reason.NO_PODS])
    worst = copies[0]
    if worst.ready:
        words = SENTENCES[Reason.ALL_COPIES_READY]
        return _condition(READY, True, Reason.ALL_COPIES_READY, words)
    behind = sum(not copy.ready for copy in copies)
    others = f" (and {behind - 1} more of {len(copies)} pods)" if behind > 1 else ""
    reason = worst.state if worst.reason in {"", Reason.IN_PROGRESS} else worst.reason
    message = f"{worst.pod}: {_words(worst)}{others}"
    return _condition(READY, False, reason, message)


def _words(copy: Copy) -> str:
    said = copy.reported
    if copy.state is State.DOWNLOADING and said is not None and said.total_bytes:
        return f"{_bytes(said.bytes or 0, said.total_bytes)} of {_size(said.total_bytes)}"
    return copy.message or _sentence(copy)


def _sentence(copy: Copy) -> str:
    try:
        return SENTENCES[Reason(copy.reason)]
    except ValueError:
        return f"{copy.state.value}: {copy.reason}"


def _bytes(received: int, total: int) -> str:
    unit = _GIB if total >= _GIB else _MIB
    return f"{received / unit:.1f}"


def _size(total: int) -> str:
    return f"{total / _GIB:.1f} GiB" if total >= _GIB else f"{total / _MIB:.1f} MiB"


def _condition(kind: str, holds: bool, reason: str, message: str) -> Status:
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "reason": str(reason),
        "message": message[:1024],
    }


def _dated(condition: Status, model: DesiredModel, now: datetime) -> Status:
    """Add generation and transition time; the time moves only when the status does."""
    since = _time(now)
    for former in model.status.get("conditions") or ():
        if former.get("type") == condition["type"] and former.get("status") == condition["status"]:
            since = former.get("lastTransitionTime") or since
    return {**condition, "observedGeneration": model.generation, "lastTransitionTime": since}


def _last_failure(copies: Sequence[Copy], told: Document) -> Status | None:
    """Return the newest failure of any copy; a retry under way keeps the one it is made for."""
    failed = [
        (_time(said.failed_time) if said.failed_time else "", copy.pod, copy, said)
        for copy in copies
        if copy.state in FAILED_STATES and (said := copy.reported) is not None
    ]
    if failed:
        _, _, newest, said = max(failed, key=lambda one: one[:2])
        return _failure(newest, said)
    former = told.get("lastFailure")
    if former is not None:
        for copy in copies:
            said = copy.reported
            if copy.pod == former.get("pod") and not copy.ready and said and said.attempt:
                return dict(former)
    return None


def _failure(copy: Copy, said: ReportedModel) -> Status:
    failure: Status = {
        "pod": copy.pod,
        "reason": str(copy.reason),
        "message": copy.message,
        "attempt": said.attempt or 0,
    }
    if said.failed_time is not None:
        failure["time"] = _time(said.failed_time)
    if said.next_retry_time is not None:
        failure["nextRetryTime"] = _time(said.next_retry_time)
    return failure


def _unsettled(copies: Sequence[Copy]) -> list[Status]:
    """List the copies that are not settled, the least advanced first, at most ten."""
    listed = []
    for copy in [copy for copy in copies if not copy.ready][:MAX_STATUS_PODS]:
        said = copy.reported
        one: dict[str, str | None] = {
            "name": copy.pod,
            "state": copy.state.value,
            "reason": str(copy.reason) or None,
            "message": _words(copy)[:1024] or None,
            "revision": said.revision if said is not None else None,
            "loadedRevision": said.loaded_revision if said is not None else None,
        }
        listed.append({field: value for field, value in one.items() if value is not None})
    return listed


def _time(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
