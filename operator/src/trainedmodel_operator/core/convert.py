"""Conversion: what a manifest of KServe's becomes here, and what cannot come along.

    TrainedModel (serving.kserve.io)                 a TrainedModel of ours, field by field
    InferenceService, Standard or Knative            stays KServe's; what to label and annotate
    InferenceService, deployment mode ModelMesh      a TrainedModel: there, each of them is a model
    List                                             what its items become
    anything else                                    left out, and said so

What is made is checked by the contract's own rules, so nothing comes out that the API server would
refuse. A document that cannot be converted is a fault and the others are converted all the same;
whatever is lost on the way is a note. Nothing is left out silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from trainedmodel_contract import names, trainedmodel
from trainedmodel_contract.trainedmodel import SpecError, parse_trained_model

Document = Mapping[str, Any]

KSERVE_GROUP: Final = "serving.kserve.io"
DEPLOYMENT_MODE: Final = f"{KSERVE_GROUP}/deploymentMode"
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_SECRET_KEY: Final = f"{KSERVE_GROUP}/secretKey"

#: Words in a runtime's or predictor's name, and the server that it is.
_SERVERS: Final = (
    ("mlserver", "mlserver"),
    ("triton", "triton"),
    ("torchserve", "torchserve"),
    ("tensorflow", "tfs"),
    ("tfserving", "tfs"),
    ("ovms", "ovms"),
    ("openvino", "ovms"),
    ("vllm", "vllm"),
    ("sglang", "sglang"),
    ("llama", "llama"),
)
#: Keys of a predictor that are not the name of a framework.
_NOT_FRAMEWORKS: Final = frozenset({"model", "containers", "workerSpec"})
#: ModelMesh's kinds of storage, and the scheme of their URIs.
_SCHEMES: Final = {"s3": "s3", "gcs": "gs", "gs": "gs", "pvc": "pvc"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the manifests do not say.

    Attributes:
        service: Service for models of ModelMesh that name no runtime.
        bucket: Bucket for models of ModelMesh that name none: its Secret's `default_bucket`.
    """

    service: str = ""
    bucket: str = ""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What became of one document.

    Attributes:
        objects: To be applied.
        notes: What to know or to do.
        faults: Why nothing was made of it.
    """

    objects: tuple[Document, ...] = ()
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


class _Unconvertible(Exception):
    """A document cannot be converted; the message says why."""


def convert(document: Any, options: Options) -> Iterator[Conversion]:
    """Convert a document, or each item of a list; never raises for what it may contain."""
    if document is None:
        return
    if not isinstance(document, Mapping):
        yield Conversion(faults=("a document is no Kubernetes object",))
        return
    if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
        for one in document["items"]:
            yield from convert(one, options)
        return
    what = _describe(document)
    try:
        found = _convert_one(document, options)
    except _Unconvertible as error:
        yield Conversion(faults=(f"{what}: {error}",))
        return
    yield Conversion(found.objects, tuple(f"{what}: {note}" for note in found.notes))


def _convert_one(document: Document, options: Options) -> Conversion:
    group = str(document.get("apiVersion", "")).partition("/")[0]
    kind = document.get("kind")
    if group == names.GROUP:
        return Conversion((document,), ("is one of ours already: left as it is",))
    if group == KSERVE_GROUP and kind == "TrainedModel":
        return _from_trained_model(document)
    if group == KSERVE_GROUP and kind == "InferenceService":
        mode = str(_map(_map(document, "metadata"), "annotations").get(DEPLOYMENT_MODE, ""))
        if mode.lower() == "modelmesh":
            return _from_model_mesh(document, options)
        return Conversion(notes=tuple(_advice(document)))
    return Conversion(notes=("is nothing that can be converted: left out",))


# -- KServe's TrainedModel ------------------------------------------------------------------


def _from_trained_model(document: Document) -> Conversion:
    spec = _map(document, "spec")
    model = dict(_map(spec, "model"))
    notes = list(_unknown(spec, {"inferenceService", "model"}, "spec"))
    notes += _unknown(model, {"storageUri", "framework", "memory"}, "spec.model")
    converted = _make(
        document,
        inferenceService=spec.get("inferenceService"),
        model={
            "storageUri": model.get("storageUri"),
            "framework": str(model.get("framework") or "").lower(),
            "memory": model.get("memory"),
        },
    )
    return Conversion((converted,), tuple(notes))


# -- ModelMesh ------------------------------------------------------------------------------


def _from_model_mesh(document: Document, options: Options) -> Conversion:
    predictor = _map(_map(document, "spec"), "predictor")
    framework, model = _predictor_model(predictor)
    storage = _map(model, "storage")
    annotations = _map(_map(document, "metadata"), "annotations")
    service = str(model.get("runtime") or options.service)
    if not service:
        raise _Unconvertible(
            "names no runtime, so that the service of its model is not known: name one with "
            "--service"
        )
    credentials = str(storage.get("key") or annotations.get(_SECRET_KEY) or "")
    converted = _make(
        document,
        inferenceService=service,
        model={
            "storageUri": model.get("storageUri") or _storage_uri(storage, options),
            "framework": framework,
            "credentials": credentials or None,
        },
    )
    return Conversion((converted,), tuple(_lost(predictor, model, credentials, service)))


def _predictor_model(predictor: Document) -> tuple[str, Document]:
    """Return framework and model of a predictor, in its newer form (`model:`) or an older one."""
    model = _map(predictor, "model")
    if model:
        return str(_map(model, "modelFormat").get("name") or "").lower(), model
    for key, value in predictor.items():
        is_model = isinstance(value, Mapping) and ("storageUri" in value or "storage" in value)
        if key not in _NOT_FRAMEWORKS and is_model:
            return key.lower(), value
    raise _Unconvertible("spec.predictor has no model")


def _storage_uri(storage: Document, options: Options) -> str:
    """Put a URI together from ModelMesh's storage: a kind, a bucket or claim, a path."""
    parameters = _map(storage, "parameters")
    kind = str(parameters.get("type") or "s3")
    scheme = _SCHEMES.get(kind)
    if scheme is None:
        raise _Unconvertible(f"spec.predictor.model.storage is of the type {kind!r}: write a URI")
    path = str(storage.get("path") or "").strip("/")
    if not path:
        raise _Unconvertible("spec.predictor.model has neither storageUri nor storage.path")
    place = str(parameters.get("name" if scheme == "pvc" else "bucket") or "")
    place = place or ("" if scheme == "pvc" else options.bucket)
    if not place:
        raise _Unconvertible(
            "names no bucket: name one with --bucket (default_bucket in ModelMesh's Secret)"
            if scheme != "pvc"
            else "spec.predictor.model.storage.parameters has no name: that of the claim"
        )
    return f"{scheme}://{place}/{path}"


def _lost(predictor: Document, model: Document, credentials: str, service: str) -> Iterator[str]:
    """Say what of a ModelMesh model does not come along."""
    yield (
        f"goes to the service {service!r}, which must be there: pods with the label "
        f"{names.PARENT_LABEL}={service}, or an InferenceService of that name"
    )
    yield "is loaded in each pod of its service: no model is unloaded for another to have room"
    if credentials:
        yield (
            f"takes its credentials from the profile {credentials!r}: make a Secret of what "
            f"ModelMesh's has under that key, and mount it by {names.CREDENTIALS_ANNOTATION}"
        )
    if _map(model, "modelFormat").get("version"):
        yield "spec.predictor.model.modelFormat.version is lost: the server's image decides"
    if _map(model, "storage").get("schemaPath"):
        yield "spec.predictor.model.storage.schemaPath is lost: put the schema beside the model"
    known = {"modelFormat", "storageUri", "storage", "runtime", "protocolVersion", "name"}
    yield from _unknown(model, known, "spec.predictor.model")
    for key in ("minReplicas", "maxReplicas", "scaleTarget", "scaleMetric"):
        if key in predictor:
            yield f"spec.predictor.{key} is lost: scale the service"


# -- other InferenceServices ----------------------------------------------------------------


def _advice(document: Document) -> Iterator[str]:
    """Say what an InferenceService needs so that its pods get a puller."""
    metadata, predictor = _map(document, "metadata"), _map(_map(document, "spec"), "predictor")
    name, namespace = metadata.get("name"), metadata.get("namespace")
    server = _guess_server(predictor)
    scope = f" -n {namespace}" if namespace else ""
    yield (
        "stays KServe's. Its pods get a puller by: kubectl label inferenceservice "
        f"{name}{scope} {names.INJECT_LABEL}={names.INJECT_VALUE}; kubectl annotate "
        f"inferenceservice {name}{scope} {names.SERVER_ANNOTATION}={server}. "
        "Both replace its pods: put them into its manifest together"
    )
    if "containers" not in predictor:
        yield (
            "is not a custom predictor: KServe adds its own agent or initializer to such pods. "
            "They go on, but a custom predictor (spec.predictor.containers) is the simpler way"
        )
    for component in ("transformer", "explainer"):
        if component in _map(document, "spec"):
            yield f"its {component}'s pods get no puller"


def _guess_server(predictor: Document) -> str:
    """Return the server that a predictor's words stand for; `auto` asks it."""
    containers = predictor.get("containers")
    images = [
        str(container.get("image"))
        for container in (containers if isinstance(containers, list) else ())
        if isinstance(container, Mapping)
    ]
    runtime = str(_map(predictor, "model").get("runtime") or "")
    words = " ".join((runtime, *predictor, *images)).lower()
    found = {server for word, server in _SERVERS if word in words}
    return found.pop() if len(found) == 1 else "auto"


# -- what all share -------------------------------------------------------------------------


def _make(document: Document, *, inferenceService: Any, model: Document) -> Document:  # noqa: N803
    """Make a TrainedModel of ours under the name of a document, by the contract's rules."""
    metadata = _map(document, "metadata")
    kept: dict[str, Any] = {
        key: metadata[key] for key in ("name", "namespace", "labels") if metadata.get(key)
    }
    annotations = {
        key: value
        for key, value in _map(metadata, "annotations").items()
        if key != _LAST_APPLIED and not str(key).startswith(f"{KSERVE_GROUP}/")
    }
    if annotations:
        kept["annotations"] = annotations
    made = {
        "apiVersion": names.API_VERSION,
        "kind": trainedmodel.KIND,
        "metadata": kept,
        "spec": {
            "inferenceService": inferenceService,
            "model": {key: value for key, value in model.items() if value not in (None, "")},
        },
    }
    try:
        parse_trained_model(made)
    except SpecError as error:
        raise _Unconvertible(f"would not be valid: {error}") from error
    return made


def _unknown(fields: Document, known: set[str], where: str) -> Iterator[str]:
    for key in fields:
        if key not in known:
            yield f"{where}.{key} is lost: there is no such field"


def _map(parent: Document, key: str) -> Document:
    """Return a part that may not be there, or be anything."""
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}


def _describe(document: Document) -> str:
    metadata = _map(document, "metadata")
    path = "/".join(str(metadata[key]) for key in ("namespace", "name") if metadata.get(key))
    return f"{document.get('kind') or 'object'} {path or 'without a name'}"
