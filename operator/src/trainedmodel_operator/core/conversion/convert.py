"""Conversion of a whole input: each document by its kind, and conflicts between two of them.

The package docstring has the result for each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from trainedmodel_contract import names, trainedmodel
from trainedmodel_contract.trainedmodel import SpecError, parse_trained_model

from trainedmodel_operator.core.conversion import kserve, modelmesh, secrets
from trainedmodel_operator.core.conversion.entries import Entries, find_entries
from trainedmodel_operator.core.conversion.result import (
    KSERVE_GROUPS,
    Conversion,
    Options,
    Unconvertible,
    describe,
    group_of,
    part,
    slug,
)
from trainedmodel_operator.core.document import Document

__all__ = ["Conversion", "Options", "convert", "convert_all"]

#: Groups of projects that serve models: a kind of theirs is never left out in silence.
_SERVING_GROUPS: Final = frozenset(
    {
        *KSERVE_GROUPS,
        "machinelearning.seldon.io",
        "mlops.seldon.io",
        "serving.yatai.ai",
        "ome.io",
        "inference.networking.k8s.io",
        "inference.networking.x-k8s.io",
    }
)
_SERVING_KINDS: Final = frozenset(
    {"TrainedModel", "InferenceService", "Predictor", "ServingRuntime", "ClusterServingRuntime"}
)
_ADVICE: Final = {
    "ServingRuntime": "run its server image in a Deployment, or in a custom predictor, with the "
    f"label {names.INJECT_LABEL}: {names.INJECT_VALUE}",
}
_ADVICE_FOR_OTHERS: Final = "move it by hand, or leave it out of the input"


def convert(document: Any, options: Options) -> Iterator[Conversion]:
    """Convert a document, or each item of a list; never raises for what it may contain."""
    yield from convert_all((document,), options)


def convert_all(documents: Iterable[Any], options: Options) -> Iterator[Conversion]:
    """Convert all documents of an input; never raises for what they may contain."""
    flat = list(_opened(documents))
    entries = find_entries(one for one in flat if isinstance(one, Mapping))
    made: dict[tuple[str, str, str], tuple[str, Document]] = {}
    profiles: dict[tuple[str, str], str] = {}
    for document in flat:
        found = _answer(document, options, entries)
        if isinstance(document, Mapping):
            found = _once(document, found, made)
            found = _one_profile_a_name(document, found, profiles)
        yield found


def _opened(documents: Iterable[Any]) -> Iterator[Any]:
    """Open lists, however deep; an item without a kind has that of its list."""
    waiting = list(documents)[::-1]
    while waiting:
        document = waiting.pop()
        if document is None:
            continue
        kind = document.get("kind") if isinstance(document, Mapping) else None
        if not (isinstance(kind, str) and kind.endswith("List")):
            yield document
            continue
        items = document.get("items")
        if items is None:
            continue
        if not isinstance(items, list):
            yield document
            continue
        known = {"apiVersion": document.get("apiVersion"), "kind": kind.removesuffix("List")}
        is_typed = kind != "List"
        waiting += [
            {**known, **one} if is_typed and isinstance(one, Mapping) else one for one in items
        ][::-1]


def _answer(document: Any, options: Options, entries: Entries) -> Conversion:
    if not isinstance(document, Mapping) or not isinstance(document.get("kind"), str):
        return Conversion(faults=("a document is not a Kubernetes object: it has no kind",))
    what = describe(document)
    try:
        found = _by_kind(document, options, entries)
    except Unconvertible as error:
        return Conversion(faults=(f"{what}: {error}",))
    return replace(
        found,
        notes=tuple(f"{what}: {note}" for note in found.notes),
        faults=tuple(f"{what}: {fault}" for fault in found.faults),
    )


def _by_kind(document: Document, options: Options, entries: Entries) -> Conversion:
    group, kind = group_of(document), str(document["kind"])
    if kind.endswith("List"):
        raise Unconvertible("items must be a list")
    if group == names.GROUP:
        return _ours(document)
    if group in KSERVE_GROUPS and kind in _CONVERTERS:
        return _CONVERTERS[kind](document, options, entries)
    if group in _SERVING_GROUPS or kind in _SERVING_KINDS:
        version = document.get("apiVersion") or "which is missing"
        advice = _ADVICE.get(kind.removeprefix("Cluster"), _ADVICE_FOR_OTHERS)
        raise Unconvertible(f"apiVersion {version}: this kind cannot be converted: {advice}")
    if group == "" and secrets.is_store_secret(document):
        return secrets.from_secret(document)
    return Conversion(notes=("is of a kind that cannot be converted: left out",))


def _from_inference_service(document: Document, options: Options, entries: Entries) -> Conversion:
    if modelmesh.is_model_mesh(document):
        return modelmesh.from_inference_service(document, options, entries)
    return Conversion(notes=tuple(kserve.advice(document)))


_CONVERTERS: Final[dict[str, Callable[[Document, Options, Entries], Conversion]]] = {
    "TrainedModel": lambda document, options, _: kserve.from_trained_model(document, options),
    "Predictor": modelmesh.from_predictor,
    "InferenceService": _from_inference_service,
}


def _ours(document: Document) -> Conversion:
    if document["kind"] == trainedmodel.KIND:
        try:
            parse_trained_model(dict(document))
        except SpecError as error:
            raise Unconvertible(
                f"already belongs to {names.GROUP}, and is invalid: {error}"
            ) from error
    return Conversion((document,), (f"already belongs to {names.GROUP}: left unchanged",))


def _once(
    document: Document, found: Conversion, made: dict[tuple[str, str, str], tuple[str, Document]]
) -> Conversion:
    """Refuse a second object of one name, which `kubectl apply` would write over the first."""
    kept: list[Document] = []
    notes, faults = list(found.notes), list(found.faults)
    what = describe(document)
    for one in found.objects:
        metadata = part(one, "metadata")
        place = tuple(str(metadata.get(key) or "") for key in ("namespace", "name"))
        key = (str(one.get("kind")), place[0], place[1])
        first = made.setdefault(key, (what, one))
        if first[1] is one:
            kept.append(one)
        elif first[1] == one:
            notes.append(f"{what}: appears twice: written once")
        else:
            faults.append(
                f"{what}: becomes a {key[0]} {key[2]}, and so does the earlier {first[0]}: rename "
                "one of them"
            )
    return replace(found, objects=tuple(kept), notes=tuple(notes), faults=tuple(faults))


def _one_profile_a_name(
    document: Document, found: Conversion, profiles: dict[tuple[str, str], str]
) -> Conversion:
    """Refuse a model whose key becomes the profile that another key has become."""
    if not (found.key and found.objects):
        return found
    place = (str(part(document, "metadata").get("namespace") or ""), slug(found.key))
    first = profiles.setdefault(place, found.key)
    if first == found.key:
        return found
    fault = (
        f"{describe(document)}: its key {found.key!r} becomes the same credential profile "
        f"{place[1]!r} as the key {first!r} of another model: rename one of them"
    )
    return replace(found, objects=(), faults=(*found.faults, fault))
