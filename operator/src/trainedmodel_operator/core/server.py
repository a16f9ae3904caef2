"""Which container of a pod is the model server.

Injection and memory admission both need the answer, and both get it here. The webhook needs it when
the pod is created, and writes it into the annotation `trainedmodel.dev/container`. A pass needs it
for the stored pod, and finds that annotation first, so containers that other webhooks added
meanwhile cannot change the answer. Pods whose puller was not injected have no such record unless
their owner wrote it. The same rules apply to them.

The rules, in order; the first that finds a container decides:

 1. the container that `trainedmodel.dev/container` names
 2. the container that KServe calls its server
 3. the container that kubectl takes for the main one
 4. the only container, apart from pullers and known sidecars
 5. the only one of those with a mount at the model folder

If two containers are possible, the result is an error and not a guess. The wrong container would
get a folder that it never reads, or would apply its small memory limit to a large server.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Final

from trainedmodel_contract import names

from trainedmodel_operator.core.document import Document

DEFAULT_MODEL_DIR: Final = "/mnt/models"
#: What kubectl takes for a pod's main container.
DEFAULT_CONTAINER_ANNOTATION: Final = "kubectl.kubernetes.io/default-container"
#: Containers that others inject, and that never serve models.
KNOWN_SIDECARS: Final = frozenset(
    {"agent", "istio-proxy", "linkerd-proxy", "queue-proxy", "vault-agent", "cloud-sql-proxy"}
)


class ServerUnclear(ValueError):
    """No container, or more than one, could be the model server; the message has the fix."""


def find_server(pod: Document, model_dir: str = DEFAULT_MODEL_DIR) -> int:
    """Return the index of the server's container in `spec.containers`.

    Raises:
        ServerUnclear: none, or more than one could be meant.
    """
    containers: Sequence[Document] = (pod.get("spec") or {}).get("containers") or ()
    annotations: Mapping[str, str] = (pod.get("metadata") or {}).get("annotations") or {}
    found = [str(container.get("name")) for container in containers]
    listed = ", ".join(found) or "none"
    named = annotations.get(names.CONTAINER_ANNOTATION)
    if named is not None:
        if named.strip() not in found:
            raise ServerUnclear(
                f"annotation {names.CONTAINER_ANNOTATION}={named!r:.120}: the pod has no such "
                f"container (containers: {listed})"
            )
        return found.index(named.strip())
    for name in (names.KSERVE_CONTAINER, annotations.get(DEFAULT_CONTAINER_ANNOTATION)):
        if name in found:
            return found.index(name)
    aside = KNOWN_SIDECARS | names.PULLER_CONTAINERS
    candidates = [index for index, name in enumerate(found) if name not in aside]
    if len(candidates) != 1:
        at_folder = [index for index in candidates if mount_at(containers[index], model_dir) >= 0]
        candidates = at_folder or candidates
    if len(candidates) != 1:
        raise ServerUnclear(
            f"cannot tell which container is the model server (containers: {listed}): "
            f"name it in the annotation {names.CONTAINER_ANNOTATION}"
        )
    return candidates[0]


def server_of(pod: Document) -> Document | None:
    """Return the server's container of a stored pod; None if it is not clear which it is."""
    annotations: Mapping[str, str] = (pod.get("metadata") or {}).get("annotations") or {}
    told = (annotations.get(names.MODEL_DIR_ANNOTATION) or "").strip()
    try:
        index = find_server(pod, posixpath.normpath(told) if told else DEFAULT_MODEL_DIR)
    except ServerUnclear:
        return None
    container: Document = pod["spec"]["containers"][index]
    return container


def mount_at(container: Document, folder: str) -> int:
    """Return the index of the container's mount at a folder, or -1."""
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        if mount_path(mount) == folder:
            return index
    return -1


def mount_path(mount: Document) -> str:
    """Return where a mount is, normalised."""
    return posixpath.normpath(str(mount.get("mountPath") or "."))
