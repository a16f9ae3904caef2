"""Serving: which container of a pod is the model server, and whether it may be given models.

Nothing is guessed where two containers could be meant: the wrong one would get a folder that it
never reads, and the pod would look well while it serves nothing.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trainedmodel_contract import names

from trainedmodel_operator.core.injection.wishes import Wishes
from trainedmodel_operator.errors import InjectionImpossible

Document = Mapping[str, Any]

#: What kubectl takes for a pod's main container.
DEFAULT_CONTAINER_ANNOTATION: Final = "kubectl.kubernetes.io/default-container"
#: Containers that others inject, and that never serve models.
KNOWN_SIDECARS: Final = frozenset(
    {"agent", "istio-proxy", "linkerd-proxy", "queue-proxy", "vault-agent", "cloud-sql-proxy"}
)
#: KServe's own; its value `transformer` or `explainer` is a pod without models.
COMPONENT_LABEL: Final = "component"
_WITHOUT_MODELS: Final = frozenset({"transformer", "explainer"})


def serves_no_models(metadata: Document) -> bool:
    """Tell whether KServe handed our label to a pod that is no predictor."""
    labels = metadata.get("labels") or {}
    return names.PARENT_POD_LABELS[0] in labels and labels.get(COMPONENT_LABEL) in _WITHOUT_MODELS


def find_server(pod: Document, wishes: Wishes) -> int:
    """Return the index of the server's container.

    In order: the one that is named; KServe's; the one that kubectl takes for the main one; the only
    one, sidecars aside; the only one that has something mounted at the model folder.

    Raises:
        InjectionImpossible: none, or more than one could be meant.
    """
    containers: Sequence[Document] = pod["spec"].get("containers") or ()
    found = [str(container.get("name")) for container in containers]
    listed = ", ".join(found) or "none"
    if wishes.container is not None:
        if wishes.container not in found:
            raise InjectionImpossible(
                f"annotation {names.CONTAINER_ANNOTATION}={wishes.container}: the pod has no such "
                f"container (it has: {listed})"
            )
        return found.index(wishes.container)
    annotations = pod["metadata"].get("annotations") or {}
    for name in (names.KSERVE_CONTAINER, annotations.get(DEFAULT_CONTAINER_ANNOTATION)):
        if name in found:
            return found.index(name)
    candidates = [index for index, name in enumerate(found) if name not in KNOWN_SIDECARS]
    if len(candidates) != 1:
        at_folder = [
            index for index in candidates if mount_at(containers[index], wishes.model_dir) >= 0
        ]
        candidates = at_folder or candidates
    if len(candidates) != 1:
        raise InjectionImpossible(
            f"which container is the model server (there are: {listed})? "
            f"Name it in the annotation {names.CONTAINER_ANNOTATION}"
        )
    return candidates[0]


def mount_at(container: Document, folder: str) -> int:
    """Return the index of the container's mount at a folder, or -1."""
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        if mount_path(mount) == folder:
            return index
    return -1


def check_no_mount_across(container: Document, folder: str) -> None:
    """Refuse mounts above or below the model folder.

    Below it, a mount point would have to be made in what the server sees read-only; above it, ours
    would have to be made in a volume of which nothing is known.

    Raises:
        InjectionImpossible: there is one.
    """
    for mount in container.get("volumeMounts") or ():
        path = mount_path(mount)
        if path == folder:
            continue
        is_below, is_above = path.startswith(f"{folder}/"), folder.startswith(f"{path}/")
        if is_below or is_above:
            raise InjectionImpossible(
                f"container {container.get('name')} mounts the volume {mount.get('name')} at "
                f"{path}, {'below' if is_below else 'above'} the model folder {folder}: mount it "
                f"elsewhere, or name another folder in the annotation {names.MODEL_DIR_ANNOTATION}"
            )


def mount_path(mount: Document) -> str:
    """Return where a mount is, normalised."""
    return posixpath.normpath(str(mount.get("mountPath") or "."))


def check_port_is_free(pod: Document, port: int) -> None:
    """Refuse a port of the puller that another container declares.

    Raises:
        InjectionImpossible: there is one.
    """
    spec = pod["spec"]
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        for declared in container.get("ports") or ():
            is_tcp = declared.get("protocol") in (None, "TCP")
            if is_tcp and declared.get("containerPort") == port:
                raise InjectionImpossible(
                    f"container {container.get('name')} listens on port {port}, which is the "
                    f"puller's: name another one in the annotation {names.PORT_ANNOTATION}"
                )
