"""Makes a TrainedModel from a manifest, and reports its faults by the manifest's field names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from trainedmodel_contract import names, trainedmodel
from trainedmodel_contract.trainedmodel import SpecError, parse_trained_model

from trainedmodel_operator.core.conversion.addresses import readable_uri
from trainedmodel_operator.core.conversion.metadata import kept_metadata
from trainedmodel_operator.core.conversion.result import Field, Options, Unconvertible, shown, slug
from trainedmodel_operator.core.document import Document

_SERVICE: Final = re.compile(names.PARENT_NAME_PATTERN)
_FRAMEWORK: Final = re.compile(r"[a-z0-9._-]{0,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The values of a manifest about a model, each with its path."""

    service: Field
    uri: Field
    framework: Field
    memory: Field = field(default=Field("", None))
    credentials: Field = field(default=Field("", None))


def make(document: Document, source: Source, options: Options) -> tuple[Document, list[str]]:
    """Make a TrainedModel under the name of a document, and say what is to be known about it.

    Raises:
        Unconvertible: it would not be valid; the message is in the words of the manifest.
    """
    metadata, notes = kept_metadata(document)
    service, more = _service(source.service, options)
    notes += more
    uri, more = readable_uri(source.uri)
    notes += more
    model: dict[str, Any] = {"storageUri": uri}
    if framework := _framework(source.framework):
        model["framework"] = framework
    if source.memory.value not in (None, ""):
        model["memory"] = source.memory.value
    if source.credentials.value:
        model["credentials"] = slug(source.credentials.text())
    made: Document = {
        "apiVersion": names.API_VERSION,
        "kind": trainedmodel.KIND,
        "metadata": metadata,
        "spec": {"inferenceService": service, "model": model},
    }
    try:
        parse_trained_model(dict(made))
    except SpecError as error:
        raise Unconvertible(_in_its_words(str(error), source)) from error
    return made, notes


def _service(found: Field, options: Options) -> tuple[str, list[str]]:
    """Return the service of a model: as mapped, as named, or as the options say."""
    named = found.text()
    if named in options.services:
        return options.services[named], []
    if _SERVICE.fullmatch(named):
        return named, []
    if not options.service:
        if not named:
            raise Unconvertible(
                f"{found.path} is missing, so the service of the model is not known: name one "
                "with --service NAME"
            )
        raise Unconvertible(
            f"{found} is not a valid service name (lower-case letters, digits and '-'): say "
            f"which service is meant, with --service {named}=NAME"
        )
    if not named:
        return options.service, []
    return options.service, [
        f"{found} is not a valid service name: the model goes to {options.service!r}, as "
        "--service says"
    ]


def _framework(found: Field) -> str:
    text = found.text().lower()
    if _FRAMEWORK.fullmatch(text) is None:
        raise Unconvertible(
            f"{found} cannot be a framework's name: use letters, digits, '.', '_' and '-'"
        )
    return text


def _in_its_words(error: str, source: Source) -> str:
    """Say what the contract says, of the field that the manifest has."""
    where, _, rule = error.partition(": ")
    places = {
        "spec.model.memory": source.memory,
        "spec.model.storageUri": source.uri,
        "spec.model.framework": source.framework,
        "spec.model.credentials": source.credentials,
        "spec.inferenceService": source.service,
    }
    for name, found in places.items():
        if where.startswith(name):
            return f"{found}: {rule}"
    if "served name" in error:
        return (
            "metadata.name cannot be a model's name on a server (letters, digits, '_', '.', '-', "
            f"at most 128 characters, no '..'): rename it {shown(error)}"
        )
    return error
