"""The input of one pass: both sides of one service, read once and frozen.

The shell reads documents from the API and turns them into these values. Decisions see nothing else.
A TrainedModel that breaks a rule is still a value here (`fault` names the rule), because one bad
object must neither stop the pass nor lose the entry that it may already have (O4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from trainedmodel_contract import names
from trainedmodel_contract.modelreport import ModelReport
from trainedmodel_contract.trainedmodel import SpecError, TrainedModel, parse_trained_model

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.pacing.put_off import PutOff
from trainedmodel_operator.core.pods import Readiness, readiness, server_memory
from trainedmodel_operator.core.staleness import Staleness

#: Phases in which a pod no longer serves.
FINISHED_PHASES = frozenset({"Succeeded", "Failed"})


class ServiceKey(NamedTuple):
    """The unit of work: a running service, by name; it need not exist."""

    namespace: str
    service: str

    def __str__(self) -> str:
        """Show the key as people write it."""
        return f"{self.namespace}/{self.service}"


@dataclass(frozen=True, slots=True)
class DesiredModel:
    """A TrainedModel that is to be served.

    Attributes:
        created: RFC 3339, as the API gives it: sorts by time as text.
        model: The parsed object, None when it breaks a rule.
        fault: The rule that it breaks, None when it breaks none.
        status: The status as the API (or a later write of ours) has it.
    """

    name: str
    uid: str
    generation: int
    created: str
    model: TrainedModel | None
    fault: str | None
    status: Document = field(default_factory=dict)

    @property
    def seniority(self) -> tuple[str, str]:
        """Sort key: the older first, equals by name."""
        return (self.created, self.name)


@dataclass(frozen=True, slots=True)
class ShardView:
    """A ConfigMap with a shard's name, as it lies there.

    Attributes:
        is_ours: It carries our managed-by label and its service's name. If not, it is somebody
            else's that happens to have the name, and is never written.
        labels: All its labels: a lost one is put back.
    """

    index: int
    name: str
    data: Mapping[str, str]
    resource_version: str
    is_ours: bool
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod of the service.

    Attributes:
        server_memory: Memory limit of its model server in bytes, None if there is none.
    """

    name: str
    uid: str
    terminating: bool = False
    phase: str = "Running"
    annotations: Mapping[str, str] = field(default_factory=dict)
    readiness: Readiness = Readiness.REACHED
    server_memory: int | None = None

    @property
    def has_finished(self) -> bool:
        """Whether its containers have ended for good."""
        return self.phase in FINISHED_PHASES

    @property
    def is_desired(self) -> bool:
        """Whether the pod is meant to serve: one that ends or has ended is not a copy."""
        return not self.terminating and not self.has_finished


@dataclass(frozen=True, slots=True)
class ServiceView:
    """The InferenceService that has the service's name, if there is one.

    Attributes:
        is_known: False if it could not be read: then what was told of it stays.
        url: Where the service answers; None until it says so.
    """

    is_known: bool = True
    exists: bool = False
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of earlier passes. Losing it (a restart) costs a delay, never correctness.

    Attributes:
        nudged: When each pod (by uid) was last nudged, or first seen behind.
        doubled: Since when a model's entry is known to lie in two shards.
        put_off: By shard: its last write failed.
        held: Shards whose write has failed in this pass.
        under_way: Shards that are being written; the end of a write enqueues the service.
        unnudged: By pod (uid): its last nudge failed.
    """

    nudged: Mapping[str, datetime] = field(default_factory=dict)
    doubled: Mapping[str, datetime] = field(default_factory=dict)
    put_off: Mapping[int, PutOff] = field(default_factory=dict)
    held: frozenset[int] = frozenset()
    under_way: frozenset[int] = frozenset()
    unnudged: Mapping[str, PutOff] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gathered:
    """One service, whole: nothing in it comes from a list that failed in part (O1).

    Attributes:
        shards: The ConfigMaps that exist with a shard's name, ours or not.
        reports: By the uid of the pod that each report is owned by.
        staleness: How long those that promise heartbeats have said nothing, by the same uid.
        unread: Uids of the pods whose report is there and could not be read now: what is in
            `reports` is what it said before.
        may_write_shards: False while the shard window is closed: the pass then tells statuses
            only.
    """

    key: ServiceKey
    models: tuple[DesiredModel, ...] = ()
    shards: tuple[ShardView, ...] = ()
    pods: tuple[PodView, ...] = ()
    reports: Mapping[str, ModelReport] = field(default_factory=dict)
    staleness: Mapping[str, Staleness] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    service: ServiceView = ServiceView()
    memory: Memory = field(default_factory=Memory)
    may_write_shards: bool = True


def read_models(
    documents: Iterable[Document], statuses: Mapping[str, Document] | None = None
) -> tuple[DesiredModel, ...]:
    """Read the TrainedModels that are to be served; one under deletion is not.

    `statuses` (by uid) takes the place of what the documents say, where a write of ours is newer.
    """
    newer = statuses or {}
    desired = (_read_model(document, newer) for document in documents)
    return tuple(sorted((one for one in desired if one is not None), key=lambda one: one.name))


def _read_model(document: Document, newer: Mapping[str, Document]) -> DesiredModel | None:
    metadata = document["metadata"]
    if metadata.get("deletionTimestamp") is not None:
        return None
    model: TrainedModel | None = None
    fault: str | None = None
    try:
        # The status is our own word: only the spec is judged.
        model = parse_trained_model({"metadata": metadata, "spec": document.get("spec")})
    except SpecError as error:
        fault = str(error)
    uid = metadata.get("uid", "")
    return DesiredModel(
        name=metadata["name"],
        uid=uid,
        generation=metadata.get("generation", 0),
        created=metadata.get("creationTimestamp") or "",
        model=model,
        fault=fault,
        status=newer.get(uid) or document.get("status") or {},
    )


def read_shard(key: ServiceKey, document: Document) -> ShardView | None:
    """Read a ConfigMap as a shard of `key`; None if its name is not a shard's."""
    metadata = document["metadata"]
    shards = names.shard_names(key.service)
    if metadata["name"] not in shards:
        return None
    labels = metadata.get("labels") or {}
    return ShardView(
        index=shards.index(metadata["name"]),
        name=metadata["name"],
        data=document.get("data") or {},
        resource_version=metadata.get("resourceVersion", ""),
        is_ours=labels.get(names.MANAGED_BY_LABEL) == names.MANAGED_BY
        and labels.get(names.PARENT_LABEL) == key.service,
        labels=labels,
    )


def read_pod(document: Document) -> PodView:
    """Read a pod."""
    metadata = document["metadata"]
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        terminating=metadata.get("deletionTimestamp") is not None,
        phase=(document.get("status") or {}).get("phase", ""),
        annotations=metadata.get("annotations") or {},
        readiness=readiness(document),
        server_memory=server_memory(document),
    )
