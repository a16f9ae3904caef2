"""The status document: the state of each model, with its reason and its next action.

`/status` shows it for the running puller, and the command `plan` for a plan made now. It is made
from the same desired and observed state as the plan, and from the reported models, so the three
never contradict each other. `docs/status.md` describes the document; its keys are a public
interface.

URIs are shown without their query, which may be a signature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from trainedmodel_contract.modelreport import ReportedModel
from trainedmodel_contract.reasons import State
from trainedmodel_contract.uri import parse_uri

from trainedmodel_puller.core.state import (
    Action,
    Deferred,
    DesiredState,
    DiskModel,
    Download,
    Instant,
    Load,
    ObservedState,
    Plan,
    Remove,
    Transfer,
    Unload,
    WantedModel,
)

Document = dict[str, Any]

#: Of a long queue the document lists so many; all are counted, and each model has its own words.
MAX_LISTED: Final = 100


def status_document(
    desired: DesiredState,
    observed: ObservedState,
    plan: Plan,
    models: Mapping[str, ReportedModel],
    now: Instant,
    *,
    only: str | None = None,
) -> Document:
    """Return what `/status` shows, as JSON values with camelCase keys.

    Args:
        desired: The desired state.
        observed: The observed state.
        plan: The last plan for both.
        models: The report of each model, by metadata.name.
        now: Current time of the plan's clock.
        only: metadata.name or served name of the only model to show in `models`.
    """
    head = status_head(desired, observed, plan, models, now)
    told = status_models(desired, observed, plan, models, now, only=only)
    return {**head, "models": dict(told)}


def status_head(
    desired: DesiredState,
    observed: ObservedState,
    plan: Plan,
    models: Mapping[str, ReportedModel],
    now: Instant,
) -> Document:
    """Return the status document without its models."""
    return {
        "config": {
            "isKnown": desired.is_known,
            "digest": desired.config_digest,
            "problem": desired.problem,
            "models": len(desired.models),
            "faults": len(desired.faults),
        },
        "server": {
            "isKnown": observed.server.is_known,
            "message": observed.server.message or None,
            "models": dict(Counter(str(state) for state in observed.server.models.values())),
        },
        "volume": _volume(observed),
        "states": dict(sorted(Counter(str(model.state) for model in models.values()).items())),
        "plan": _plan(observed, plan, now),
    }


def status_models(
    desired: DesiredState,
    observed: ObservedState,
    plan: Plan,
    models: Mapping[str, ReportedModel],
    now: Instant,
    *,
    only: str | None = None,
) -> Iterator[tuple[str, Document]]:
    """Yield each model of the status document with its metadata.name, in the order of these.

    They come one by one, so that a writer of thousands need not hold them all.
    """
    names = {disk.id or name: name for name, disk in observed.disk.items()}
    names.update((wanted.id, name) for name, wanted in desired.models.items())
    waits: dict[str, list[Deferred]] = {}
    for item in plan.deferred:
        waits.setdefault(item.name, []).append(item)
    for model_id in sorted(models):
        name = names.get(model_id)
        if only is not None and only != model_id and (only != name or only in models):
            continue
        document = _model(models[model_id])
        if name is not None:
            document |= _more(name, desired.models.get(name), observed)
            if name in waits:
                document["waitsFor"] = [_why(item, now) for item in waits[name]]
        yield model_id, document


def _volume(observed: ObservedState) -> Document:
    kept = kept_bytes = served_bytes = 0
    for disk in observed.disk.values():
        for revision, tree in disk.trees.items():
            if revision in disk.published:
                served_bytes += tree.size
            else:
                kept, kept_bytes = kept + 1, kept_bytes + tree.size
    return {
        "problem": observed.volume_doubt,
        "undeletedTrees": observed.undeleted,
        "freeBytes": observed.free_bytes,
        "servedBytes": served_bytes,
        "keptVersions": kept,
        "keptBytes": kept_bytes,
    }


# -- the plan in words ----------------------------------------------------------------------


def _plan(observed: ObservedState, plan: Plan, now: Instant) -> Document:
    under_way = _under_way(observed)
    busy = {(item["action"], item["name"]) for item in under_way}
    planned = [
        item for item in map(_action, plan.actions) if (item["action"], item["name"]) not in busy
    ]
    waiting = [_wait(item, now) for item in plan.deferred]
    wake_at = plan.wake_at
    return {
        "underWay": under_way[:MAX_LISTED],
        "next": planned[:MAX_LISTED],
        "cancelled": list(plan.cancelled[:MAX_LISTED]),
        "waiting": waiting[:MAX_LISTED],
        "counts": {
            "underWay": len(under_way),
            "next": len(planned),
            "cancelled": len(plan.cancelled),
            "waiting": len(waiting),
        },
        "nextTryInSeconds": None if wake_at is None else _until(wake_at, now),
    }


def _under_way(observed: ObservedState) -> list[Document]:
    items = [
        {
            "action": str(transfer.stage),
            "name": name,
            "revision": transfer.revision,
            **_progress(transfer),
        }
        for name, transfer in observed.transfers.items()
    ]
    items += [
        {"action": str(stage), "name": name} for name, stage in observed.server_actions.items()
    ]
    items += [{"action": "Remove", "name": name} for name in observed.removals]
    return sorted(items, key=lambda item: (item["name"], item["action"]))


def _progress(transfer: Transfer) -> Document:
    total = transfer.total_bytes
    return {
        "receivedBytes": transfer.received_bytes,
        "totalBytes": total,
        "percent": min(100 * transfer.received_bytes // total, 100) if total else None,
    }


def _action(action: Action) -> Document:
    match action:
        case Download():
            source, revision = _shown(action.entry.storage_uri), action.entry.revision
            words = f"download {source} as revision {revision}"
            return {
                "action": "Download",
                "name": action.name,
                "revision": revision,
                "words": words,
            }
        case Load():
            words = f"load revision {action.revision}: {action.reason}"
            return {
                "action": "Load",
                "name": action.name,
                "revision": action.revision,
                "words": words,
            }
        case Unload():
            return {"action": "Unload", "name": action.name, "words": "unload: no longer wanted"}
        case Remove():
            return {
                "action": "Remove",
                "name": action.name,
                "words": f"delete {_removed(action)}: {action.reason}",
            }


def _removed(action: Remove) -> str:
    if action.is_staging:
        return "the staged files"
    if action.versions is None:
        return "all files"
    return "revision " + ", ".join(sorted(action.versions))


def _wait(item: Deferred, now: Instant) -> Document:
    return {"name": item.name, **_why(item, now)}


def _why(item: Deferred, now: Instant) -> Document:
    return {
        "reason": str(item.reason),
        "message": item.message,
        "isBlocked": item.is_blocked,
        "inSeconds": None if item.until is None else _until(item.until, now),
    }


def _until(instant: Instant, now: Instant) -> float:
    return round(max(instant - now, 0.0), 1)


# -- one model ------------------------------------------------------------------------------


def _model(model: ReportedModel) -> Document:
    document = model.to_dict()
    for key in ("bytes", "totalBytes"):  # rounded; `download` has them as they are
        document.pop(key, None)
    if model.state == State.LOADED:
        document["loadedRevision"] = model.revision
    return document


def _more(name: str, wanted: WantedModel | None, observed: ObservedState) -> Document:
    document: Document = {"name": name}
    if wanted is not None:
        document["storageUri"] = _shown(wanted.entry.storage_uri)
    disk = observed.disk.get(name)
    if disk is not None:
        document["onDisk"] = _trees(disk)
    transfer = observed.transfers.get(name)
    if transfer is not None:
        document["download"] = {
            "revision": transfer.revision,
            "stage": str(transfer.stage),
            **_progress(transfer),
        }
    return document


def _trees(disk: DiskModel) -> list[Document]:
    return [
        {
            "revision": revision,
            "bytes": tree.size,
            "isPublished": revision in disk.published,
        }
        for revision, tree in sorted(disk.trees.items())
    ]


def _shown(uri: str) -> str:
    try:
        return str(parse_uri(uri))
    except ValueError:
        return "(not a valid URI)"
