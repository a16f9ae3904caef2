"""Entries: one model as the puller sees it, one ConfigMap key, one mounted file.

The operator writes them canonically, so equal desires are equal bytes. The puller reads them
leniently: a field that it does not know is a newer operator's, not an error.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from trainedmodel_contract import names
from trainedmodel_contract.canonical import canonical_json

#: What an int64 of the API holds.
MAX_INTEGER: Final = 2**63 - 1


class EntryError(ValueError):
    """An entry is not usable; the message names the field and what is wrong with it.

    Attributes:
        field: Dotted path of the field, as in the JSON; empty where the fault is in no one field.
        is_missing: Whether the field is not there.
    """

    def __init__(self, message: str, field: str = "", *, is_missing: bool = False) -> None:
        super().__init__(message)
        self.field = field
        self.is_missing = is_missing


class Entry(BaseModel):
    """What a pod must serve, under which name, from where.

    Attributes:
        name: Served name, as in the model server's URLs.
        storage_uri: Where the model is.
        revision: Identity of what must be served; the puller compares it and never computes it.
        generation: metadata.generation of the TrainedModel that it was made from.
        shard: Index of the shard that holds the entry, so that a mounted folder, in which all
            shards lie side by side, can be checked against each shard's manifest. None outside
            Kubernetes.
        memory: Declared need in bytes.
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
    """Read an entry.

    Raises:
        EntryError: not JSON, not an object, or a field is missing or wrong.
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
