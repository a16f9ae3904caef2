"""Entries: one model for the puller, as one ConfigMap key and one mounted file.

The operator writes canonical JSON, so equal entries have equal bytes. The puller reads leniently:
it ignores unknown fields, which come from a newer operator.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from trainedmodel_contract import names
from trainedmodel_contract.canonical import canonical_json

#: The largest int64 of the API.
MAX_INTEGER: Final = 2**63 - 1


class EntryError(ValueError):
    """An entry is not valid; the message names the field and the fault.

    Attributes:
        field: Dotted path of the field, as in the JSON; empty if the fault has no single field.
        is_missing: Whether the field is missing.
    """

    def __init__(self, message: str, field: str = "", *, is_missing: bool = False) -> None:
        super().__init__(message)
        self.field = field
        self.is_missing = is_missing


class Entry(BaseModel):
    """One model that a pod must serve, with its served name and its source.

    Attributes:
        name: Served name, as in the model server's URLs.
        storage_uri: URI of the source.
        revision: Identity of the model to serve; the puller compares it and never computes it.
        generation: metadata.generation of the TrainedModel that the entry was made from.
        shard: Index of the shard that holds the entry. All shards are mounted into one folder; the
            index lets the puller check the files against each shard's manifest. None outside
            Kubernetes.
        memory: Declared memory in bytes.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore"
    )

    name: str = Field(min_length=1, max_length=128)
    storage_uri: str = Field(min_length=1, max_length=2048)
    framework: str = Field(default="", max_length=64)
    revision: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    generation: int = Field(default=0, ge=0, le=MAX_INTEGER)
    shard: Annotated[int, Field(ge=0, lt=names.SHARD_COUNT)] | None = None
    memory: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    version: str | None = None
    digest: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{64}$")
    parameters: dict[str, str] | None = None
    credentials: str | None = Field(default=None, pattern=names.PROFILE_NAME_PATTERN)

    @field_validator("name")
    @classmethod
    def _name_is_one_segment(cls, name: str) -> str:
        if not names.is_model_name(name):
            raise ValueError(
                "must be [A-Za-z0-9_.-], without a leading '.' or '-' and without '..'"
            )
        return name

    def to_json(self) -> str:
        """Render the entry canonically."""
        return canonical_json(self.model_dump(by_alias=True, exclude_none=True))


def parse_entry(text: str | bytes) -> Entry:
    """Parse an entry.

    Raises:
        EntryError: it is not JSON, not an object, or a field is missing or not valid.
    """
    try:
        return Entry.model_validate_json(text)
    except ValidationError as error:
        raise _first_fault(error) from error


def _first_fault(error: ValidationError) -> EntryError:
    fault: dict[str, Any] = dict(error.errors(include_url=False, include_input=False)[0])
    field, why = ".".join(str(part) for part in fault["loc"]), str(fault["msg"])
    message = f"{field}: {why}" if field else why
    return EntryError(message, field, is_missing=fault["type"] == "missing")
