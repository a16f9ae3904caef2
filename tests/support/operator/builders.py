"""Values that the operator's tests start from, and what carrying out a plan makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from trainedmodel_contract import names
from trainedmodel_contract.modelreport import ModelReport
from trainedmodel_operator.core.plan import Plan
from trainedmodel_operator.core.shards import documents
from trainedmodel_operator.core.shards.documents import WriteKind
from trainedmodel_operator.core.state import (
    DesiredModel,
    Gathered,
    Memory,
    PodView,
    ServiceKey,
    ShardView,
    read_models,
)

KEY = ServiceKey("demo", "tabular")
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def document(
    name: str,
    /,
    *,
    service: str = KEY.service,
    namespace: str = KEY.namespace,
    generation: int = 1,
    age_s: int = 0,
    uri: str | None = None,
    uid: str | None = None,
    status: Mapping[str, Any] | None = None,
    **model: Any,
) -> dict[str, Any]:
    """Make a TrainedModel as the API gives it; `age_s` makes it older."""
    created = (NOW - timedelta(seconds=age_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid or f"uid-{name}",
            "generation": generation,
            "creationTimestamp": created,
        },
        "spec": {
            "inferenceService": service,
            "model": {"storageUri": uri or f"s3://models/{name}", **model},
        },
        "status": dict(status or {}),
    }


def desired(*documents: dict[str, Any]) -> tuple[DesiredModel, ...]:
    """Read documents as a pass does."""
    return read_models(documents)


def one(name: str = "iris", /, **more: Any) -> DesiredModel:
    """Make one desired model."""
    return desired(document(name, **more))[0]


def view(
    index: int, data: Mapping[str, str], *, ours: bool = True, version: str = "1"
) -> ShardView:
    """Make a shard as it lies there."""
    labels = documents.shard_labels(KEY, index) if ours else {}
    return ShardView(index, names.shard_name(KEY.service, index), data, version, ours, labels)


def shard_of(index: int, models: Iterable[DesiredModel]) -> ShardView:
    """Make a shard that holds these models as it shall."""
    entries = {
        model.name: model.model.to_entry(index).to_json()
        for model in models
        if model.model is not None
    }
    return view(index, documents.render_shard(index, entries))


def pod(name: str = "pod-a", **more: Any) -> PodView:
    """Make a pod."""
    return PodView(name, f"uid-{name}", **more)


def report(
    of: PodView,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    digest: str | None = None,
    reachable: bool = True,
    **more: Any,
) -> ModelReport:
    """Make a pod's report."""
    return ModelReport.model_validate(
        {
            "metadata": {
                "name": of.name,
                "ownerReferences": [{"kind": "Pod", "name": of.name, "uid": of.uid}],
            },
            "inferenceService": KEY.service,
            "configDigest": digest,
            "server": {"kind": "mlserver", "reachable": reachable},
            "models": dict(models or {}),
            **more,
        }
    )


def loaded(*models: DesiredModel) -> dict[str, dict[str, Any]]:
    """Say of each model that it is loaded in its current revision."""
    return {
        model.name: {"state": "Loaded", "revision": model.model.revision()}
        for model in models
        if model.model is not None
    }


def digest_of(gathered: Gathered) -> str:
    """Return the digest of a pod that has seen everything."""
    return documents.seen_digest((one.index, one.data) for one in gathered.shards if one.is_ours)


def carried_out(before: Gathered, plan: Plan, now: datetime = NOW) -> Gathered:
    """Return what a pass would gather after the plan was carried out."""
    views = {shard.index: shard for shard in before.shards}
    for write in plan.shard_writes:
        if write.kind is WriteKind.DELETE:
            del views[write.index]
        elif write.kind is WriteKind.CREATE:
            views[write.index] = view(write.index, write.body["data"])
        else:
            old = views[write.index]
            assert write.body["metadata"]["resourceVersion"] == old.resource_version
            data = {**old.data, **write.body.get("data", {})}
            views[write.index] = view(
                write.index,
                {key: value for key, value in data.items() if value is not None},
                version=str(int(old.resource_version) + 1),
            )
    values = {nudge.uid: nudge.value for nudge in plan.nudges}
    statuses = {write.uid: write.status for write in plan.statuses}
    return replace(
        before,
        shards=tuple(views[index] for index in sorted(views)),
        pods=tuple(
            replace(one, annotations={**one.annotations, names.CONFIG_ANNOTATION: values[one.uid]})
            if one.uid in values
            else one
            for one in before.pods
        ),
        models=tuple(
            replace(model, status=statuses.get(model.uid, model.status)) for model in before.models
        ),
        memory=Memory(
            nudged={
                uid: now if uid in values else before.memory.nudged.get(uid, now)
                for uid in plan.behind
            },
            doubled={name: before.memory.doubled.get(name, now) for name in plan.moving},
        ),
    )


def entries_of(gathered: Gathered) -> dict[int, set[str]]:
    """Return which models each shard holds."""
    return {
        shard.index: {name for key in shard.data if (name := names.object_name(key)) is not None}
        for shard in gathered.shards
    }
