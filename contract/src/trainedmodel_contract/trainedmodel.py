"""The TrainedModel kind: the user's spec and the operator's status.

The pydantic models are the single source; the CRD is generated from them. Rules of one field are
JSON schema (pattern, length) and hold in both. Rules that JSON schema cannot express are CEL in the
CRD and a validator here. The operator validates each object that it reads, because an object may be
older than the schema.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from trainedmodel_contract import names
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.quantity import MAX_BYTES, QUANTITY_PATTERN, parse_bytes
from trainedmodel_contract.revision import compute_revision
from trainedmodel_contract.uri import STORAGE_URI_PATTERN, parse_uri

KIND: Final = "TrainedModel"
PLURAL: Final = "trainedmodels"
SINGULAR: Final = "trainedmodel"
#: KServe's kind has the same plural and the short name `tm`, so `tm` would be ambiguous.
SHORT_NAME: Final = "tmodel"

#: Limit of the copies that a status lists one by one; only copies that are not settled are listed.
MAX_STATUS_PODS: Final = 10

ACCEPTED: Final = "Accepted"
AVAILABLE: Final = "Available"
READY: Final = "Ready"


class SpecError(ValueError):
    """A TrainedModel is not valid; the message names the field and the rule."""


class ApiModel(BaseModel):
    """Base of all types of the Kubernetes API: camelCase there, snake_case here."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore"
    )

    def to_dict(self) -> dict[str, Any]:
        """Dump as the API expects it: JSON values, camelCase, no null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


#: Limits of a quantity's characters and of a parameter name's. The API server estimates the cost of
#: a rule from the largest value.
MAX_QUANTITY: Final = 64
MAX_PARAMETER_NAME: Final = 253

ParameterName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PARAMETER_NAME)]
ParameterValue = Annotated[str, StringConstraints(max_length=4096)]


class ModelSpec(ApiModel):
    """The model and its source."""

    storage_uri: str = Field(
        pattern=STORAGE_URI_PATTERN,
        max_length=2048,
        description="URI of the model: s3:// gs:// http(s):// hf:// az:// abfs(s):// pvc:// or "
        "file://. A path that names an object is that object, any other path is a folder. "
        "Without user info. The path is used as written; only an http address is encoded (%20).",
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "!self.matches('^[^/]*//[^/?#]*:[^/?#]*@') && "
                    "(self.matches('^(abfss?|az|wasbs?)://') || !self.matches('^[^/]*//[^/?#]*@'))",
                    "message": "must not carry user info before '@': "
                    "use spec.model.credentials instead",
                },
                {
                    "rule": "!self.matches('^[^?]*/[.][.]?(/|[?]|$)') && !self.contains('#')",
                    "message": "must not have '.' or '..' as a path segment, or a fragment",
                },
                {
                    "rule": "!self.matches('^[^/]*//+([?].*)?$')",
                    "message": "must name a bucket, host or path after '://'",
                },
                {
                    "rule": "!self.matches('[^\\\\P{Z} ]|\\\\p{Cc}')",
                    "message": "must not have control characters, or white space other than "
                    "plain spaces",
                },
                {
                    "rule": "!self.matches('^[^/]*//[^/?#]* |[ ]$')",
                    "message": "may have spaces within its path only, and not at its end",
                },
                {
                    "rule": "!(self.matches('^https?://') && self.contains(' '))",
                    "message": "must have %20 for a space in an http address",
                },
            ]
        },
    )
    framework: str = Field(
        default="",
        max_length=64,
        pattern=r"^[a-z0-9._-]*$",
        description="sklearn, xgboost, lightgbm, tensorflow, pytorch, onnx, triton, lora, ... "
        "(open). Lets a driver complete a model that lacks its server's settings file.",
    )
    memory: Annotated[str, Field(max_length=MAX_QUANTITY)] | StrictInt | None = Field(
        default=None,
        description="Declared memory, a quantity such as 256Mi; for admission only. A model "
        "without it counts as 0.",
        json_schema_extra={
            "pattern": QUANTITY_PATTERN,
            "maxLength": MAX_QUANTITY,
            "x-kubernetes-int-or-string": True,
            "x-kubernetes-validations": [
                {
                    "rule": f"type(self) == int ? self >= 0 && self <= {MAX_BYTES} : "
                    f"!quantity(self).isGreaterThan(quantity('{MAX_BYTES}'))",
                    "message": "must be a quantity of bytes between 0 and 1Ei",
                }
            ],
        },
    )
    name: str | None = Field(
        default=None,
        pattern=names.MODEL_NAME_PATTERN,
        max_length=128,
        description="Served name, as in the model server's URLs; default metadata.name.",
        json_schema_extra={
            "x-kubernetes-validations": [
                {"rule": "!self.contains('..')", "message": "must not contain '..'"}
            ]
        },
    )
    version: str | None = Field(
        default=None,
        max_length=256,
        description="Free text; a new value makes the puller fetch and load the model again.",
    )
    digest: str | None = Field(
        default=None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        max_length=71,
        description="sha256:<hex> of the object, or of the sorted manifest of a folder.",
    )
    parameters: dict[ParameterName, ParameterValue] | None = Field(
        default=None,
        max_length=64,
        description="Passed to the model server's load call.",
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": f"self.all(key, size(key) >= 1 && size(key) <= {MAX_PARAMETER_NAME})",
                    "message": f"must have names of 1 to {MAX_PARAMETER_NAME} characters",
                }
            ]
        },
    )
    credentials: str | None = Field(
        default=None,
        pattern=names.PROFILE_NAME_PATTERN,
        max_length=63,
        description="Name of a credential profile that is mounted into the puller.",
    )

    @field_validator("storage_uri")
    @classmethod
    def _uri_is_whole(cls, uri: str) -> str:
        parse_uri(uri)
        return uri

    @field_validator("memory")
    @classmethod
    def _memory_is_a_quantity(cls, memory: str | int | None) -> str | int | None:
        if memory is not None:
            parse_bytes(memory)
        return memory

    @field_validator("name")
    @classmethod
    def _name_is_one_segment(cls, name: str | None) -> str | None:
        if name is not None and not names.is_model_name(name):
            raise ValueError("must not contain '..'")
        return name


class TrainedModelSpec(ApiModel):
    """One model from one URI, loaded into a running service."""

    inference_service: str = Field(
        pattern=names.PARENT_NAME_PATTERN,
        max_length=63,
        description="Name of the service (an InferenceService, or the value of the label "
        "trainedmodel.dev/inference-service on any pods) in the same namespace. "
        "It may change: the model moves to the other service.",
    )
    model: ModelSpec


class Condition(ApiModel):
    """A condition as in every Kubernetes API."""

    type: str = Field(max_length=64)
    status: Literal["True", "False", "Unknown"]
    reason: str = Field(max_length=64)
    message: str = Field(default="", max_length=32768)
    observed_generation: int | None = None
    last_transition_time: datetime


class Copies(ApiModel):
    """Numbers of pods that should serve the model, that serve it, and that failed."""

    desired: int = 0
    ready: int = 0
    failed: int = 0
    summary: str = Field(default="0/0", description="ready/desired, for the table.")


class LastFailure(ApiModel):
    """The most recent failure of any copy."""

    pod: str
    reason: str
    message: str = ""
    time: datetime | None = None
    attempt: int = 0
    next_retry_time: datetime | None = None


class PodCopy(ApiModel):
    """One copy that is not settled."""

    name: str
    state: str
    reason: str | None = None
    message: str | None = None
    revision: str | None = None
    loaded_revision: str | None = None


class TrainedModelStatus(ApiModel):
    """The state of the model's copies, as the operator last observed it."""

    observed_generation: int | None = None
    revision: str | None = Field(
        default=None,
        description="Identity of the model to serve; it changes when a reload is due.",
    )
    state: str | None = Field(default=None, description="State of the least advanced copy.")
    reason: str | None = Field(default=None, description="Reason of the state, or its progress.")
    copies: Copies | None = None
    conditions: list[Condition] | None = Field(
        default=None,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    last_failure: LastFailure | None = None
    pods: list[PodCopy] | None = Field(
        default=None,
        max_length=MAX_STATUS_PODS,
        description="Copies that are not settled, at most 10.",
    )
    url: str | None = Field(
        default=None, description="URL of the model's predictions, if it is known."
    )


class ObjectMeta(ApiModel):
    """The part of metadata that decisions need."""

    name: str = Field(min_length=1, max_length=names.MAX_OBJECT_NAME)
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None


class TrainedModel(ApiModel):
    """A TrainedModel as read from the API."""

    metadata: ObjectMeta
    spec: TrainedModelSpec
    status: TrainedModelStatus = TrainedModelStatus()

    @model_validator(mode="after")
    def _served_name_is_usable(self) -> TrainedModel:
        if not names.is_model_name(self.served_name):
            raise ValueError("metadata.name cannot be a served name: set spec.model.name")
        return self

    @property
    def served_name(self) -> str:
        """The name in the model server's URLs."""
        return self.spec.model.name or self.metadata.name

    def revision(self) -> str:
        """Compute the identity of the model to serve."""
        model = self.spec.model
        return compute_revision(
            storage_uri=model.storage_uri,
            name=self.served_name,
            framework=model.framework,
            version=model.version,
            digest=model.digest,
            parameters=model.parameters,
        )

    def to_entry(self, shard: int | None = None) -> Entry:
        """Make the entry for the pods."""
        model = self.spec.model
        return Entry(
            name=self.served_name,
            storage_uri=model.storage_uri,
            framework=model.framework,
            revision=self.revision(),
            generation=self.metadata.generation,
            shard=shard,
            memory=None if model.memory is None else parse_bytes(model.memory),
            version=model.version or None,
            digest=model.digest,
            parameters=model.parameters or None,
            credentials=model.credentials,
        )


def parse_trained_model(document: dict[str, Any]) -> TrainedModel:
    """Parse a TrainedModel from its API form.

    Raises:
        SpecError: it breaks a rule; the message names the field.
    """
    try:
        return TrainedModel.model_validate(document)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(to_camel(str(part)) for part in fault["loc"])
        text = str(fault["msg"]).removeprefix("Value error, ")
        raise SpecError(f"{where}: {text}" if where else text) from error
