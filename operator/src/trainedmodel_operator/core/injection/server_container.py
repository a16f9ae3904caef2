"""The model server's container: whether a pod, and that container, may be given models.

`core.server` decides which container it is.
"""

from __future__ import annotations

from typing import Final

from trainedmodel_contract import names

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.injection.request import InjectionRequest
from trainedmodel_operator.core.server import ServerUnclear, find_server, mount_path
from trainedmodel_operator.errors import InjectionImpossible

#: KServe's own; its value `transformer` or `explainer` is a pod without models.
COMPONENT_LABEL: Final = "component"
_WITHOUT_MODELS: Final = frozenset({"transformer", "explainer"})


def serves_no_models(metadata: Document) -> bool:
    """Tell whether KServe handed our label to a pod that is no predictor."""
    labels = metadata.get("labels") or {}
    return names.PARENT_POD_LABELS[0] in labels and labels.get(COMPONENT_LABEL) in _WITHOUT_MODELS


def server_index(pod: Document, request: InjectionRequest) -> int:
    """Return the index of the server's container.

    Raises:
        InjectionImpossible: none, or more than one could be meant.
    """
    try:
        return find_server(pod, request.model_dir)
    except ServerUnclear as error:
        raise InjectionImpossible(str(error)) from error


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


def check_port_is_free(pod: Document, request: InjectionRequest) -> None:
    """Refuse a port of the puller that is the model server's, or that a container declares.

    Raises:
        InjectionImpossible: there is one.
    """
    port = request.port
    if port == (request.server_port or names.SERVER_PORTS.get(request.server)):
        raise InjectionImpossible(
            f"the model server ({request.server}) and the puller would both listen on port {port}: "
            f"set another port of the puller in the annotation {names.PORT_ANNOTATION}, or the "
            f"server's port in {names.SERVER_PORT_ANNOTATION}"
        )
    spec = pod["spec"]
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        for declared in container.get("ports") or ():
            is_tcp = declared.get("protocol") in (None, "TCP")
            if is_tcp and declared.get("containerPort") == port:
                raise InjectionImpossible(
                    f"container {container.get('name')} listens on port {port}, which is the "
                    f"puller's: set another one in the annotation {names.PORT_ANNOTATION}"
                )
