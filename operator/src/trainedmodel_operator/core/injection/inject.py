"""The decision: from a pod, as admission shows it, to the patch that gives it a puller.

`inject` is total and deterministic. Any pod gives a patch (which may be empty) or a refusal that
names the field to change. Equal pods give equal patches, and an injected pod gives an empty one:
webhooks are called again whenever a later one has changed the pod.

The rules, in order; each of the first three can end it:

 1. `asks_for_a_puller`   it has the label; without it nothing is touched
 2. `is_injected`         it already has a puller, injected or written by its owner: nothing to do
 3. `serves_no_models`    KServe's transformers and explainers inherit the label: marked as skipped
 4. `check_platform`      Windows pods are refused
 5. `parse_annotations`   labels and annotations, strictly
 6. `server_index`        the server's container, or a refusal if two are possible
 7. `choose_volume`       the volume that both share
 8. `check_names`         the names and ports of the puller must be free
 9. the patch             the server's name, account, volumes, the server's mount, the sidecar in
                          front of all others

The sidecar is an init container, in front of the others: KServe copies the probe and security
context of container 0 into its agent, and the files of other init containers may go through the
volume that the puller prepares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trainedmodel_contract import names

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.injection.request import InjectionRequest, parse_annotations
from trainedmodel_operator.core.injection.server_container import (
    check_port_is_free,
    server_index,
    serves_no_models,
)
from trainedmodel_operator.core.injection.side_effects import side_effects
from trainedmodel_operator.core.injection.sidecar import (
    InjectionSettings,
    render_container,
    render_volumes,
)
from trainedmodel_operator.core.injection.volume import ModelVolume, choose_volume
from trainedmodel_operator.errors import InjectionImpossible

Operation = Mapping[str, Any]

_OS_SELECTOR: Final = "kubernetes.io/os"
_INJECT_POINTER: Final = f"/metadata/labels/{names.INJECT_LABEL.replace('/', '~1')}"
_CONTAINER_POINTER: Final = f"/metadata/annotations/{names.CONTAINER_ANNOTATION.replace('/', '~1')}"


@dataclass(frozen=True, slots=True)
class Injection:
    """The answer about a pod.

    Attributes:
        patch: JSON patch; empty: the pod stays as it is.
        refusal: Why the pod cannot be; the patch is empty then.
        warnings: For the creator of the pod.
        reason: The decision in a word, for log and metrics.
    """

    patch: tuple[Operation, ...] = ()
    refusal: str | None = None
    warnings: tuple[str, ...] = ()
    reason: str = "injected"


def inject(pod: Document, settings: InjectionSettings) -> Injection:
    """Decide about a pod; never raises, whatever the pod contains."""
    if not isinstance(pod.get("metadata"), Mapping) or not isinstance(pod.get("spec"), Mapping):
        return Injection(refusal="the pod has no metadata or no spec", reason="refused")
    if not asks_for_a_puller(pod):
        return Injection(reason="not_asked")
    if is_injected(pod):
        return Injection(reason="injected_before")
    if serves_no_models(pod["metadata"]):
        skip = {"op": "add", "path": _INJECT_POINTER, "value": names.INJECT_SKIPPED}
        return Injection((skip,), reason="skipped")
    try:
        check_platform(pod)
        request = parse_annotations(pod["metadata"], settings.resources, settings.run_as_user)
        server = server_index(pod, request)
        volume = choose_volume(pod, server, request)
        sidecar = render_container(pod, server, request, volume, settings)
        volumes = render_volumes(request, volume)
        check_names(pod, volumes)
        check_port_is_free(pod, request)
    except InjectionImpossible as error:
        return Injection(refusal=str(error), reason="refused")
    patch = (
        *_note_server(pod, server),
        *_account(pod),
        *_append(pod["spec"], "/spec", "volumes", volumes),
        *_server_mounts(pod, server, volume),
        *_first(pod["spec"], sidecar),
    )
    warnings = (
        *volume.warnings,
        *request.resources.notes,
        *side_effects(pod, request.resources),
        *_unknown(request),
    )
    return Injection(patch, warnings=warnings)


def asks_for_a_puller(pod: Document) -> bool:
    """Tell whether a pod has the label that asks for injection."""
    labels = pod["metadata"].get("labels") or {}
    return bool(labels.get(names.INJECT_LABEL) == names.INJECT_VALUE)


def is_injected(pod: Document) -> bool:
    """Tell whether a container of the pod is a puller."""
    return any(
        container.get("name") in names.PULLER_CONTAINERS
        for kind in ("initContainers", "containers")
        for container in pod["spec"].get(kind) or ()
    )


def check_platform(pod: Document) -> None:
    """Refuse what the puller cannot run on.

    Raises:
        InjectionImpossible: it is a Windows pod.
    """
    spec = pod["spec"]
    told = {
        (spec.get("os") or {}).get("name"),
        (spec.get("nodeSelector") or {}).get(_OS_SELECTOR),
    }
    if "windows" in told:
        raise InjectionImpossible("the puller runs on Linux only, and this is a Windows pod")


def check_names(pod: Document, volumes: Sequence[Document]) -> None:
    """Refuse a pod without a puller that has a volume of a reserved name.

    Raises:
        InjectionImpossible: there is one.
    """
    taken = {volume.get("name") for volume in pod["spec"].get("volumes") or ()}
    for volume in volumes:
        if volume["name"] in taken:
            raise InjectionImpossible(
                f"the pod already has a volume {volume['name']} but no container "
                f"{names.PULLER_CONTAINER}: rename the volume"
            )


def _note_server(pod: Document, server: int) -> Iterator[Operation]:
    """Record the container that was taken for the server, for later passes.

    Containers that other webhooks add after this one cannot change the answer then.
    """
    annotations = pod["metadata"].get("annotations")
    if names.CONTAINER_ANNOTATION in (annotations or {}):
        return
    name = pod["spec"]["containers"][server]["name"]
    if annotations:
        yield {"op": "add", "path": _CONTAINER_POINTER, "value": name}
    else:
        value = {names.CONTAINER_ANNOTATION: name}
        yield {"op": "add", "path": "/metadata/annotations", "value": value}


def _account(pod: Document) -> Iterator[Operation]:
    """Name the account: a projected token is only granted to a pod that does."""
    if not pod["spec"].get("serviceAccountName"):
        yield {"op": "add", "path": "/spec/serviceAccountName", "value": "default"}


def _server_mounts(pod: Document, server: int, volume: ModelVolume) -> Iterator[Operation]:
    """Give the server its folder of the volume, or move the mounts that are there.

    Before the sidecar is put in front: the moves count init containers from where they are now.
    """
    if volume.mount is not None:
        container = pod["spec"]["containers"][server]
        at = f"/spec/containers/{server}"
        yield from _append(container, at, "volumeMounts", [volume.mount])
    for move in volume.moves:
        yield {"op": "add", "path": move.path, "value": move.value}


def _append(parent: Document, at: str, key: str, values: Sequence[Document]) -> Iterator[Operation]:
    """Append to a list that may not be there."""
    if not parent.get(key):
        yield {"op": "add", "path": f"{at}/{key}", "value": list(values)}
        return
    for value in values:
        yield {"op": "add", "path": f"{at}/{key}/-", "value": value}


def _first(spec: Document, container: Document) -> Iterator[Operation]:
    if spec.get("initContainers"):
        yield {"op": "add", "path": "/spec/initContainers/0", "value": container}
    else:
        yield {"op": "add", "path": "/spec/initContainers", "value": [container]}


def _unknown(request: InjectionRequest) -> Iterator[str]:
    for key in request.unknown:
        yield f"annotation {key} is unknown to this operator and has no effect"
