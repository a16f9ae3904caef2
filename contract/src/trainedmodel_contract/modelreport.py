"""The ModelReport kind: the states of all models of one pod.

Each pod has one object, which its puller alone writes. A thousand models in ten pods need ten
objects instead of ten thousand status writes (measured: 1 s against 25 s of a busy API server).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import Field

from trainedmodel_contract import names
from trainedmodel_contract.reasons import State
from trainedmodel_contract.trainedmodel import ApiModel

KIND: Final = "ModelReport"
PLURAL: Final = "modelreports"
SINGULAR: Final = "modelreport"
#: Several kinds of other projects use `mr` (model registries, model routes).
SHORT_NAME: Final = "mreport"

#: Longer messages are cut: with 10,000 models a report must stay under etcd's 1.5 MB.
MAX_MESSAGE: Final = 300
#: A heartbeat's period is less than a day.
_PERIOD_DIGITS: Final = 5


class ReportedModel(ApiModel):
    """One model in one pod.

    A settled model is just `{state: Loaded, revision}`; other fields are present only while they
    have a value. `loadedRevision` is the revision that the server was last seen to serve, if it
    differs from the desired one.

    A large report leaves `state` out where it is `Loaded`: so 10,000 models with names of 63
    characters stay under 1 MB. A state that was left out when the object was made or read is left
    out again when it is dumped.
    """

    state: str = Field(
        default=State.LOADED.value, max_length=32, description="Absent means Loaded."
    )
    revision: str | None = Field(default=None, max_length=64)
    loaded_revision: str | None = Field(default=None, max_length=64)
    reason: str | None = Field(default=None, max_length=64)
    message: str | None = Field(default=None, max_length=1024)
    bytes: int | None = Field(default=None, description="Bytes received so far.")
    total_bytes: int | None = Field(default=None, description="Bytes of the whole download.")
    attempt: int | None = Field(default=None, description="Consecutive failures.")
    failed_time: datetime | None = None
    next_retry_time: datetime | None = None

    @property
    def is_brief(self) -> bool:
        """Whether the state is left out; two reports that are equal may differ in it."""
        return "state" not in self.model_fields_set

    def to_dict(self) -> dict[str, Any]:
        """Dump as the API expects it, without a state that was left out."""
        said = super().to_dict()
        if self.is_brief:
            del said["state"]
        return said


class ReportedServer(ApiModel):
    """The model server, as the puller sees it."""

    kind: str = Field(max_length=32)
    url: str = Field(default="", max_length=512)
    reachable: bool = False
    since: datetime | None = Field(
        default=None, description="Time of the last change of reachable."
    )
    message: str | None = Field(default=None, max_length=1024)
    experimental: bool | None = Field(
        default=None,
        description="True: the driver was never tested against a real server of this kind.",
    )


class ReportedConfig(ApiModel):
    """The fault of the mounted configuration, while it has one."""

    reason: str = Field(max_length=64)
    message: str = Field(default="", max_length=1024)


class OwnerReference(ApiModel):
    """The part of an owner reference that decisions need."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class ReportMeta(ApiModel):
    """The part of a report's metadata that decisions need."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    owner_references: tuple[OwnerReference, ...] = ()
    annotations: dict[str, str] = Field(default_factory=dict)


class ModelReport(ApiModel):
    """The states of one pod's models, by metadata.name of the TrainedModel."""

    metadata: ReportMeta
    inference_service: str = ""
    config_digest: str | None = None
    config_problem: ReportedConfig | None = None
    server: ReportedServer | None = None
    models: dict[str, ReportedModel] = Field(default_factory=dict)

    @property
    def pod_uid(self) -> str | None:
        """Uid of the report's pod, from its owner reference."""
        for owner in self.metadata.owner_references:
            if owner.kind == "Pod":
                return owner.uid
        return None


def heartbeat_period(annotations: Mapping[str, str]) -> timedelta | None:
    """Return the period in which a report's puller renews its heartbeat.

    None: the report has no heartbeat (pullers of earlier versions write none), or the annotation
    is malformed.
    """
    seconds = annotations.get(names.HEARTBEAT_SECONDS_ANNOTATION, "")
    if names.HEARTBEAT_ANNOTATION not in annotations or len(seconds) > _PERIOD_DIGITS:
        return None
    if not seconds.isascii() or not seconds.isdigit() or int(seconds) == 0:
        return None
    return timedelta(seconds=int(seconds))


class ReportDocument(ApiModel):
    """The top-level fields of the kind beside metadata, for the CRD."""

    inference_service: str = Field(
        default="", max_length=63, description="Service whose models the pod serves."
    )
    config_digest: str | None = Field(
        default=None,
        max_length=64,
        description="Digest over the shard manifests that the pod has seen.",
    )
    config_problem: ReportedConfig | None = Field(
        default=None, description="Set while a part of the mounted configuration is unreadable."
    )
    server: ReportedServer | None = None
    models: dict[str, ReportedModel] | None = Field(
        default=None, description="By metadata.name of the TrainedModel."
    )
