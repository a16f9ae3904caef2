"""The ModelReport kind: what one pod says about its models.

One object a pod, written by its puller alone. A thousand models in ten pods are ten objects
instead of ten thousand status writes (measured: 1 s against 25 s of a busy API server).
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pydantic import Field

from trainedmodel_contract.trainedmodel import ApiModel

KIND: Final = "ModelReport"
PLURAL: Final = "modelreports"
SINGULAR: Final = "modelreport"
SHORT_NAME: Final = "mr"

#: Longer messages are cut: with 10,000 models a report must stay under etcd's 1.5 MB.
MAX_MESSAGE: Final = 300


class ReportedModel(ApiModel):
    """One model in one pod.

    A settled model is just `{state: Loaded, revision}`; all else is there only while it says
    something. `loadedRevision` is what the server was last seen to serve, when that is another
    revision than the wanted one.
    """

    state: str = Field(max_length=32)
    revision: str | None = Field(default=None, max_length=64)
    loaded_revision: str | None = Field(default=None, max_length=64)
    reason: str | None = Field(default=None, max_length=64)
    message: str | None = Field(default=None, max_length=1024)
    bytes: int | None = Field(default=None, description="Received so far.")
    total_bytes: int | None = Field(default=None, description="To be received.")
    attempt: int | None = Field(default=None, description="Failures in a row.")
    failed_time: datetime | None = None
    next_retry_time: datetime | None = None


class ReportedServer(ApiModel):
    """The model server, as the puller sees it."""

    kind: str = Field(max_length=32)
    url: str = Field(default="", max_length=512)
    reachable: bool = False
    since: datetime | None = Field(default=None, description="Since when it is (un)reachable.")
    message: str | None = Field(default=None, max_length=1024)


class ReportedConfig(ApiModel):
    """What is wrong with the mounted configuration, while something is."""

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
    owner_references: tuple[OwnerReference, ...] = ()


class ModelReport(ApiModel):
    """What one pod says about its models, keyed by the TrainedModel's metadata.name."""

    metadata: ReportMeta
    inference_service: str = ""
    config_digest: str | None = None
    config_problem: ReportedConfig | None = None
    server: ReportedServer | None = None
    models: dict[str, ReportedModel] = Field(default_factory=dict)

    @property
    def pod_uid(self) -> str | None:
        """Uid of the pod that the report is of, from its owner reference."""
        for owner in self.metadata.owner_references:
            if owner.kind == "Pod":
                return owner.uid
        return None


class ReportDocument(ApiModel):
    """The top-level fields of the kind beside metadata, for the CRD."""

    inference_service: str = Field(
        default="", max_length=63, description="Parent whose models the pod serves."
    )
    config_digest: str | None = Field(
        default=None, max_length=64, description="Digest over the shard manifests the pod has seen."
    )
    config_problem: ReportedConfig | None = Field(
        default=None, description="Set while the mounted configuration is unreadable in part."
    )
    server: ReportedServer | None = None
    models: dict[str, ReportedModel] | None = Field(
        default=None, description="By metadata.name of the TrainedModel."
    )
