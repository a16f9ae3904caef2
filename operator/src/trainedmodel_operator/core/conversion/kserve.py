"""KServe's own kinds: its TrainedModel, and InferenceServices that stay unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from trainedmodel_contract import names

from trainedmodel_operator.core.conversion.made import Source, make
from trainedmodel_operator.core.conversion.result import (
    Conversion,
    Field,
    Options,
    annotation,
    part,
)
from trainedmodel_operator.core.document import Document

_PARENT_LABEL: Final = "inferenceservice"
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


def from_trained_model(document: Document, options: Options) -> Conversion:
    """Make a TrainedModel from one of KServe's.

    Raises:
        Unconvertible: it would not be valid.
    """
    spec = part(document, "spec")
    model = part(spec, "model")
    source = Source(
        service=Field("spec.inferenceService", spec.get("inferenceService")),
        uri=Field("spec.model.storageUri", model.get("storageUri")),
        framework=Field("spec.model.framework", model.get("framework")),
        memory=Field("spec.model.memory", model.get("memory")),
        # ModelMesh reads these objects too, and takes the key of its Secret from an annotation.
        credentials=_first(annotation(document, "secret-key"), annotation(document, "secretKey")),
    )
    made, notes = make(document, source, options)
    _drop_parent_label(made)
    notes += unknown(spec, {"inferenceService", "model"}, "spec")
    notes += unknown(model, {"storageUri", "framework", "memory"}, "spec.model")
    if source.credentials.value:
        notes.append(credentials_note(source.credentials, made))
    return Conversion((made,), tuple(notes), key=source.credentials.text())


def _drop_parent_label(made: Document) -> None:
    """Drop the label that KServe's controller puts on its own objects to find them by."""
    labels = made["metadata"].get("labels", {})
    if labels.get(_PARENT_LABEL) == made["spec"]["inferenceService"]:
        del labels[_PARENT_LABEL]
        if not labels:
            del made["metadata"]["labels"]


def advice(document: Document) -> Iterator[str]:
    """Say what an InferenceService needs so that its pods get a puller."""
    metadata, spec = part(document, "metadata"), part(document, "spec")
    # v1alpha2 had a predictor below `default`.
    predictor = part(spec, "predictor") or part(part(spec, "default"), "predictor")
    name, namespace = metadata.get("name"), metadata.get("namespace")
    scope = f" -n {namespace}" if namespace else ""
    yield (
        "stays KServe's. Its pods get a puller by: kubectl label inferenceservice "
        f"{name}{scope} {names.INJECT_LABEL}={names.INJECT_VALUE}; kubectl annotate "
        f"inferenceservice {name}{scope} {names.SERVER_ANNOTATION}={_guess_server(predictor)}. "
        "Both replace its pods: put them into its manifest together"
    )
    if "containers" not in predictor:
        yield (
            "is not a custom predictor: KServe adds its own agent or initializer to such pods. "
            "They go on, but a custom predictor (spec.predictor.containers) is the simpler way"
        )
    for component in ("transformer", "explainer"):
        if component in spec:
            yield f"its {component}'s pods get no puller"


def _guess_server(predictor: Document) -> str:
    """Return the server that a predictor's words stand for; `auto` asks it."""
    containers = predictor.get("containers")
    images = [
        str(container.get("image"))
        for container in (containers if isinstance(containers, list) else ())
        if isinstance(container, dict)
    ]
    runtime = str(part(predictor, "model").get("runtime") or "")
    words = " ".join((runtime, *(str(key) for key in predictor), *images)).lower()
    found = {server for word, server in _SERVERS if word in words}
    return found.pop() if len(found) == 1 else "auto"


def credentials_note(found: Field, made: Document) -> str:
    """Say which credential profile a model needs."""
    profile = made["spec"]["model"]["credentials"]
    return (
        f"{found} becomes the credential profile {profile!r}: convert the Secret storage-config "
        "too, or make one Secret of what it has under that key, and name it on the pods, in the "
        f"annotation {names.CREDENTIALS_ANNOTATION}"
    )


def unknown(fields: Document, known: set[str], where: str) -> list[str]:
    """Say which fields have no counterpart."""
    return [f"{where}.{key} is lost: there is no such field" for key in fields if key not in known]


def _first(*found: Field) -> Field:
    return next((one for one in found if one.value), found[0])
