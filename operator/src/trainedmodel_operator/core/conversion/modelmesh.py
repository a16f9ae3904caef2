"""Models of ModelMesh: InferenceServices of its deployment mode, and its kind Predictor.

In ModelMesh each object is a model, and the pods of a ServingRuntime are a service here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from trainedmodel_contract import names

from trainedmodel_operator.core.conversion.entries import Entries
from trainedmodel_operator.core.conversion.kserve import credentials_note, unknown
from trainedmodel_operator.core.conversion.made import Source, make
from trainedmodel_operator.core.conversion.result import (
    Conversion,
    Field,
    Options,
    Unconvertible,
    annotation,
    part,
)
from trainedmodel_operator.core.conversion.storage import Storage, storage_address, storage_of
from trainedmodel_operator.core.document import Document

#: Keys of a predictor that are not the name of a framework.
_NOT_FRAMEWORKS: Final = frozenset({"model", "containers", "workerSpec"})
_SCALING: Final = ("minReplicas", "maxReplicas", "scaleTarget", "scaleMetric")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A model of ModelMesh, however it was written, and what is lost of it."""

    framework: Field
    runtime: Field
    uri: Field
    storage: Storage
    lost: tuple[str, ...]


def is_model_mesh(document: Document) -> bool:
    """Tell whether an InferenceService is ModelMesh's: it says so, or its status does."""
    mode = annotation(document, "deploymentMode").value or part(document, "status").get(
        "deploymentMode"
    )
    return str(mode or "").lower() == "modelmesh"


def from_inference_service(document: Document, options: Options, entries: Entries) -> Conversion:
    """Make a TrainedModel of an InferenceService of ModelMesh's.

    Raises:
        Unconvertible: it has no model, or would not be valid.
    """
    spec = part(document, "spec")
    predictor = part(spec, "predictor")
    framework, where = _predictor_model(predictor)
    model = part(predictor, where.rpartition(".")[2])
    key = annotation(document, "secretKey")
    named = Field(f"{where}.runtime", model.get("runtime"))
    found = _Model(
        framework=framework,
        runtime=named,
        uri=Field(f"{where}.storageUri", model.get("storageUri")),
        storage=storage_of(model, where, key),
        lost=tuple(_lost_of_service(document, predictor, model, where)),
    )
    by_annotation = annotation(document, "servingRuntime")
    if by_annotation.value and not named.value:
        found = replace(found, runtime=by_annotation)
    return _make(document, found, options, entries)


def from_predictor(document: Document, options: Options, entries: Entries) -> Conversion:
    """Make a TrainedModel of a Predictor, in its newer form of storage or the older one.

    Raises:
        Unconvertible: it would not be valid.
    """
    spec = part(document, "spec")
    kind, storage = part(spec, "modelType"), storage_of(spec, "spec", Field("", None))
    s3 = part(part(spec, "storage"), "s3")
    claim = part(part(spec, "storage"), "persistentVolumeClaim")
    if not storage.model_path.value:
        storage = replace(storage, model_path=Field("spec.path", spec.get("path")))
    if not storage.key.value and s3:
        storage = replace(storage, key=Field("spec.storage.s3.secretKey", s3.get("secretKey")))
    if s3.get("bucket"):
        storage = replace(storage, bucket=Field("spec.storage.s3.bucket", s3["bucket"]))
    if claim:
        name = Field("spec.storage.persistentVolumeClaim.claimName", claim.get("claimName"))
        storage = replace(storage, claim=name)
    runtime = spec.get("runtime")
    lost = [*_lost_of_storage(part(spec, "storage"), "spec.storage")]
    if kind.get("version"):
        lost.append("spec.modelType.version is lost: the server's image decides")
    if spec.get("schemaPath"):
        lost.append("spec.schemaPath is lost: put the schema beside the model")
    known = {"modelType", "runtime", "path", "schemaPath", "storage"}
    found = _Model(
        framework=Field("spec.modelType.name", kind.get("name")),
        runtime=Field("spec.runtime.name", runtime.get("name"))
        if isinstance(runtime, Mapping)
        else Field("spec.runtime.name", runtime),
        uri=Field("spec.storageUri", None),
        storage=storage,
        lost=(*lost, *unknown(spec, known, "spec")),
    )
    return _make(document, found, options, entries)


def _make(document: Document, found: _Model, options: Options, entries: Entries) -> Conversion:
    namespace = str(part(document, "metadata").get("namespace") or "")
    storage, uri = found.storage, found.uri
    notes: list[str] = []
    entry = entries.find(namespace, storage.key.text(), _type_of(storage))
    if uri.value and storage.model_path.value:
        raise Unconvertible(
            f"{uri.path} and {storage.model_path.path} are both set: remove one of them"
        )
    if not uri.value:
        if not storage.model_path.value and not storage.is_given:
            raise Unconvertible(
                f"{uri.path} and {storage.model_path.path} are missing: say where the model is"
            )
        uri, notes = storage_address(storage, entry, options.bucket)
    credentials = storage.key
    if not credentials.value and entry is not None and entry.kind not in {"pvc", ""}:
        credentials = Field("data of the Secret storage-config", entry.key)
    source = Source(
        service=found.runtime, uri=uri, framework=found.framework, credentials=credentials
    )
    made, more = make(document, source, options)
    said = (*_general(made, credentials), *notes, *more, *found.lost)
    return Conversion((made,), said, key=credentials.text())


def _type_of(storage: Storage) -> str:
    return str(storage.parameters.get("type") or "")


def _general(made: Document, credentials: Field) -> Iterator[str]:
    service = made["spec"]["inferenceService"]
    yield (
        f"goes to the service {service!r}, which must be there: pods with the label "
        f"{names.PARENT_LABEL}={service}, or an InferenceService of that name"
    )
    yield "is loaded in each pod of its service: no model is unloaded to make room for another"
    if credentials.value:
        yield credentials_note(credentials, made)


def _predictor_model(predictor: Document) -> tuple[Field, str]:
    """Return the framework of a predictor's model and the model's path, in any of its forms."""
    if model := part(predictor, "model"):
        where = "spec.predictor.model"
        name = part(model, "modelFormat").get("name")
        return Field(f"{where}.modelFormat.name", name), where
    for key, value in predictor.items():
        is_model = isinstance(value, Mapping) and ("storageUri" in value or "storage" in value)
        if key not in _NOT_FRAMEWORKS and is_model:
            where = f"spec.predictor.{key}"
            return Field(where, str(key)), where
    raise Unconvertible(
        "spec.predictor has no model: neither `model` nor a framework with storageUri or storage. "
        "Only models can be converted"
    )


def _lost_of_service(
    document: Document, predictor: Document, model: Document, where: str
) -> Iterator[str]:
    """Say what of an InferenceService does not come along."""
    if part(model, "modelFormat").get("version"):
        yield f"{where}.modelFormat.version is lost: the server's image decides"
    schema = annotation(document, "schemaPath")
    if schema.value:
        yield f"{schema.path} is lost: put the schema beside the model"
    yield from _lost_of_storage(part(model, "storage"), f"{where}.storage")
    if model.get("storageUri"):
        for name in part(part(model, "storage"), "parameters"):
            yield f"{where}.storage.parameters.{name} is lost: {where}.storageUri says all"
    known = {"modelFormat", "storageUri", "storage", "runtime", "protocolVersion", "name"}
    yield from unknown(model, known, where)
    for key in _SCALING:
        if key in predictor:
            yield f"spec.predictor.{key} is lost: scale the service"
    for component in ("transformer", "explainer"):
        if component in part(document, "spec"):
            yield f"spec.{component} is not converted: run it as a service of its own"


def _lost_of_storage(storage: Document, where: str) -> Iterator[str]:
    if storage.get("schemaPath"):
        yield f"{where}.schemaPath is lost: put the schema beside the model"
    known = {"key", "path", "schemaPath", "parameters", "s3", "persistentVolumeClaim"}
    yield from unknown(storage, known, where)
