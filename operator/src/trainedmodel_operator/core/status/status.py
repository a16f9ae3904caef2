"""The status of one TrainedModel, for people and for `kubectl wait`.

There is one pure function, `model_status`. It returns the whole status, and the writer replaces the
stored one with it. Only three things are taken from the former status: the time of a condition that
did not change, the failure that a copy is still retrying, and the revision while the spec is not
usable.

The conditions, exactly:

- `Accepted`: the model is valid, and its entry is in a shard.
- `Available`: True if a pod's server serves the model in some revision. An update does not turn it
  off at any moment. Unknown if the reports of all such pods are stale.
- `Ready`: True if at least one pod's server serves the current revision, and so does every pod that
  has come up. A pod that is still starting (`copies.Copy.starting`) counts in `copies`, but neither
  for nor against Ready: no traffic reaches it yet. So a scale-up turns nothing off, and a new model
  is Ready only when all serving pods have it. Unknown if a stale report is all that speaks against
  it.

Equal input gives an equal status, so an unchanged status is not written. No message contains an age
or another number that time alone changes. The function is total: a report that fits the schema but
makes no sense gives a status too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any, Final

from trainedmodel_contract.conditions import find_condition
from trainedmodel_contract.modelreport import ModelReport, ReportedModel
from trainedmodel_contract.quantity import format_part
from trainedmodel_contract.reasons import SENTENCES, Reason, State
from trainedmodel_contract.trainedmodel import ACCEPTED, AVAILABLE, MAX_STATUS_PODS, READY

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.shards.placement import Verdict
from trainedmodel_operator.core.state import DesiredModel, PodView
from trainedmodel_operator.core.status.copies import FAILED_STATES, Copy
from trainedmodel_operator.core.status.pod_verdicts import PodViews

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


_MOST_BYTES: Final = 2**63


def model_status(
    model: DesiredModel,
    verdict: Verdict,
    pods: Sequence[PodView],
    reports: Mapping[str, ModelReport],
    now: datetime,
    *,
    stale: AbstractSet[str] = frozenset(),
) -> Status:
    """Return the status of one model.

    `reports` are by the uid of the pod that owns them, `stale` are the uids of those that have been
    silent for too long. The state is that of the least advanced copy in a pod that has come up; a
    model that is not accepted is Blocked, and one without pods Pending (O7).
    """
    return status_by(PodViews(pods, reports, stale), model, verdict, now)


def status_by(
    pod_views: PodViews,
    model: DesiredModel,
    verdict: Verdict,
    now: datetime,
    *,
    url: str | None = None,
) -> Status:
    """Return the status of one model of many, by the reports of their service's pods.

    `url` is where the model answers, None if that is not known.
    """
    revision = model.model.revision() if model.model is not None else None
    copies = pod_views.evaluate(model.name, revision)
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
        "url": url,
        **_state(verdict, copies),
    }
    return {field: status[field] for field in FIELDS if status.get(field) not in (None, [])}


def is_same(told: Document, status: Status) -> bool:
    """Tell whether the stored status equals `status`."""
    return dict(told) == status


def _state(verdict: Verdict, copies: Sequence[Copy]) -> Status:
    if not verdict.accepted:
        return {"state": State.BLOCKED.value, "reason": str(verdict.reason)}
    if not copies:
        return {"state": State.PENDING.value, "reason": Reason.NO_PODS.value}
    judged = _come_up(copies)
    worst = judged[0]
    reason = worst.reason
    if worst.state is State.DOWNLOADING:
        reason = _percent(judged) or reason
    elif worst.ready and len(judged) < len(copies):
        reason = Reason.PODS_STARTING
    return {"state": worst.state.value, "reason": str(reason) or None}


def _come_up(copies: Sequence[Copy]) -> Sequence[Copy]:
    """Return the copies that count: those in pods that are not starting, if there are any."""
    return [copy for copy in copies if not copy.starting] or copies


def _percent(copies: Sequence[Copy]) -> str | None:
    """Return the progress of all downloads together, None while no size is known."""
    known = [progress for copy in copies if (progress := _progress(copy)) is not None]
    total = sum(total for _, total in known)
    return f"{100 * sum(received for received, _ in known) // total}%" if known else None


def _progress(copy: Copy) -> tuple[int, int] | None:
    """Return how many bytes of how many are there; None unless that is known and makes sense."""
    said = copy.reported
    if copy.state is not State.DOWNLOADING or said is None or (said.total_bytes or 0) <= 0:
        return None
    total = min(said.total_bytes or 0, _MOST_BYTES)
    return min(max(said.bytes or 0, 0), total), total


def _accepted(verdict: Verdict) -> Status:
    return _condition(ACCEPTED, verdict.accepted, verdict.reason, verdict.message)


def _available(copies: Sequence[Copy]) -> Status:
    count = sum(copy.available for copy in copies)
    if count:
        message = f"{count} of {len(copies)} pods serve the model, in some revision."
        return _condition(AVAILABLE, True, Reason.COPIES_AVAILABLE, message)
    doubtful = next((copy for copy in copies if copy.doubtful), None)
    if doubtful is not None:
        return _condition(AVAILABLE, None, Reason.REPORT_STALE, _told_by(doubtful))
    reason = Reason.NO_COPY_AVAILABLE if copies else Reason.NO_PODS
    return _condition(AVAILABLE, False, reason, SENTENCES[reason])


def _ready(verdict: Verdict, copies: Sequence[Copy]) -> Status:
    if not verdict.accepted:
        return _condition(READY, False, verdict.reason, verdict.message)
    if not copies:
        return _condition(READY, False, Reason.NO_PODS, SENTENCES[Reason.NO_PODS])
    judged = _come_up(copies)
    behind = [copy for copy in judged if not copy.ready]
    if not behind:
        return _all_ready(len(copies), len(copies) - len(judged))
    proven = [copy for copy in behind if copy.reason != Reason.REPORT_STALE]
    worst = (proven or behind)[0]
    others = f" (and {len(behind) - 1} more of {len(copies)} pods)" if len(behind) > 1 else ""
    reason = worst.state if worst.reason in {"", Reason.IN_PROGRESS} else worst.reason
    return _condition(READY, False if proven else None, reason, f"{_told_by(worst)}{others}")


def _all_ready(pods: int, starting: int) -> Status:
    reason = Reason.PODS_STARTING if starting else Reason.ALL_COPIES_READY
    words = f" ({starting} of {pods} pods)" if starting else ""
    return _condition(READY, True, reason, f"{SENTENCES[reason]}{words}")


def _told_by(copy: Copy) -> str:
    return f"{copy.pod}: {_words(copy)}"


def _words(copy: Copy) -> str:
    progress = _progress(copy)
    if progress is not None:
        return format_part(*progress)
    return copy.message or _sentence(copy)


def _sentence(copy: Copy) -> str:
    try:
        return SENTENCES[Reason(copy.reason)]
    except ValueError:
        return f"{copy.state.value}: {copy.reason}"


def _condition(kind: str, holds: bool | None, reason: str, message: str) -> Status:
    """Make a condition; `holds` None is Unknown."""
    return {
        "type": kind,
        "status": "Unknown" if holds is None else str(holds),
        "reason": str(reason),
        "message": message[:1024],
    }


def _dated(condition: Status, model: DesiredModel, now: datetime) -> Status:
    """Add generation and transition time; the time moves only when the status does."""
    since = _time(now)
    former = find_condition(model.status, condition["type"])
    if former.get("status") == condition["status"]:
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
    """Write a time as the API does; one without a zone is UTC, one that UTC has no year for too."""
    try:
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except OverflowError:
        when = when.replace(tzinfo=UTC)
    return f"{when.year:04}" + when.strftime("-%m-%dT%H:%M:%SZ")
