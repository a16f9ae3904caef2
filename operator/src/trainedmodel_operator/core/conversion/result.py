"""Shared by all parts of the conversion: results, faults, and reading documents of any shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from trainedmodel_contract import names

from trainedmodel_operator.core.document import Document

KSERVE_GROUP: Final = "serving.kserve.io"
#: KServe's group before it left Kubeflow; manifests of that time are still in use.
KUBEFLOW_GROUP: Final = "serving.kubeflow.org"
KSERVE_GROUPS: Final = (KSERVE_GROUP, KUBEFLOW_GROUP)

_MAX_SHOWN: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Values that the manifests do not contain.

    Attributes:
        service: Service for models that name none, or one that cannot be a service's name.
        services: Services by the name that the manifests use: a ServingRuntime's of ModelMesh.
        bucket: Bucket for models of ModelMesh that name none: its Secret's `default_bucket`.
    """

    service: str = ""
    services: Mapping[str, str] = field(default_factory=dict)
    bucket: str = ""


@dataclass(frozen=True, slots=True)
class Conversion:
    """The result for one document.

    Attributes:
        objects: To be applied.
        notes: Hints and further steps.
        faults: Reasons why a part was not converted.
        key: The manifest's name of a model's credential profile, if it has one.
    """

    objects: tuple[Document, ...] = ()
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    key: str = ""


class Unconvertible(Exception):
    """Something cannot be converted; the message names the field, its value and the fix."""


@dataclass(frozen=True, slots=True)
class Field:
    """A value, and the path at which the manifest has it."""

    path: str
    value: Any

    def __str__(self) -> str:
        """Show the path, and the value if there is one."""
        return self.path if self.value in (None, "") else f"{self.path}: {shown(self.value)}"

    def text(self) -> str:
        """Return the value as text; nothing if there is none.

        Raises:
            Unconvertible: it is a list or a mapping.
        """
        if self.value is None:
            return ""
        if isinstance(self.value, list | Mapping):
            raise Unconvertible(f"{self.path} must be text, and is {shown(self.value)}")
        return str(self.value)


def part(service: Document, key: str) -> Document:
    """Return a mapping in a document; an empty one if it is absent or anything else."""
    value = service.get(key)
    return value if isinstance(value, Mapping) else {}


def annotation(document: Document, name: str) -> Field:
    """Return an annotation of KServe's, under its present or its former group."""
    annotations = part(part(document, "metadata"), "annotations")
    for group in KSERVE_GROUPS:
        if annotations.get(f"{group}/{name}"):
            key = f"{group}/{name}"
            return Field(f"metadata.annotations[{key}]", annotations[key])
    return Field(f"metadata.annotations[{KSERVE_GROUP}/{name}]", None)


def shown(value: Any) -> str:
    """Show a value of a manifest in a message; never what may be a secret in an address."""
    text = value if isinstance(value, str) else repr(value)
    if "://" in text:
        text, is_cut, _ = text.partition("?")
        scheme, mark, rest = text.partition("://")
        authority, slash, path = rest.partition("/")
        if ":" in authority.rpartition("@")[0]:
            authority = f"...@{authority.rpartition('@')[2]}"
        text = f"{scheme}{mark}{authority}{slash}{path}{'?...' if is_cut else ''}"
    return repr(text[:_MAX_SHOWN]) if isinstance(value, str) else text[:_MAX_SHOWN]


def describe(document: Document) -> str:
    """Name a document in a message."""
    metadata = part(document, "metadata")
    path = "/".join(str(metadata[key]) for key in ("namespace", "name") if metadata.get(key))
    return f"{document.get('kind') or 'object'} {path or 'without a name'}"


def group_of(document: Document) -> str:
    """Return the API group of a document."""
    return str(document.get("apiVersion") or "").rpartition("/")[0]


def slug(name: str) -> str:
    """Return the name of the credential profile that a key or a Secret becomes.

    Raises:
        Unconvertible: no character of it could stand in the name.
    """
    letters = (one if one.isascii() and one.isalnum() else "-" for one in name.lower())
    found = "".join(letters).strip("-")[:63].rstrip("-")
    if not found:
        raise Unconvertible(f"{name!a} cannot be the name of a credential profile: rename it")
    return found


def annotate_with(profile: str, secret: str) -> str:
    """Say how pods get a credential profile."""
    return f"the annotation {names.CREDENTIALS_ANNOTATION}: {profile}={secret}"
