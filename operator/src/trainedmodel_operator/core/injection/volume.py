"""The model volume: shared by puller and server, each with its own view of it.

Puller and server must share one file system, of which the server sees only the served models (P4).
It must not see partial downloads or the puller's state, because some servers list every folder that
they find. So the puller mounts the whole volume, and the server a folder of it:

    <volume>/models/     mounted at the server's model folder
    <volume>/state/      the puller's own

Four cases, by the server's mount at its model folder:

    nothing              an emptyDir is made; the server gets `models/` of it, read-only
    a folder of a        the puller gets the whole volume; its own folder is beside the server's
    volume (subPath)
    a whole volume that  each mount of it moves to `models/`, in every container, so that containers
    begins empty         that filled or read it continue as before (KServe's storage-initializer and
                         agent among them), and there is room beside it
    anything else        refused: a mount cannot move in a volume that has content already

A volume that several pods share cannot be a model volume: each pod's puller has its own record of
what *its* server has loaded, and deletes what that server does not need. emptyDir and ephemeral
volumes belong to one pod, and so does the claim that a StatefulSet makes for its pod. For any other
volume the pod's owner must declare it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from trainedmodel_contract import names

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.injection.request import EXCLUSIVE, InjectionRequest
from trainedmodel_operator.core.injection.server_container import check_no_mount_across
from trainedmodel_operator.core.injection.volume_limit import (
    is_in_memory,
    memory_for_models,
    volume_limit,
)
from trainedmodel_operator.core.server import mount_at
from trainedmodel_operator.errors import InjectionImpossible

#: The volume that is made where there is none.
OWN_VOLUME: Final = "trainedmodel-volume"
MODELS: Final = "models"
STATE: Final = "state"
#: The puller's own folder in a volume whose layout is the user's.
HIDDEN_STATE: Final = ".trainedmodel"

_EMPTY_DIR: Final = "emptyDir"
_BEGIN_EMPTY: Final = frozenset({_EMPTY_DIR, "ephemeral"})
_NEVER_WRITABLE: Final = frozenset(
    {"configMap", "secret", "projected", "downwardAPI", "image", "gitRepo"}
)
_CLAIM: Final = "persistentVolumeClaim"
_LISTS: Final = ("initContainers", "containers")


@dataclass(frozen=True, slots=True)
class Move:
    """A mount that goes to a folder of its volume.

    Attributes:
        path: JSON pointer of the field.
    """

    path: str
    value: str


@dataclass(frozen=True, slots=True)
class ModelVolume:
    """The decision.

    Attributes:
        name: The volume's name in the pod.
        models: Below its root: what the server sees.
        state: Below its root: the puller's own.
        made: The volume, if it has to be made.
        mount: What the server has to be given, if anything.
        moves: Mounts of the volume that change.
        is_open: Every user may write at its root, as in any emptyDir; so it does not matter who
            makes the folder `models`.
        limit: Bytes that it may hold before the pod is evicted; None: nothing is known of one.
        warnings: For the creator of the pod.
    """

    name: str
    models: str = MODELS
    state: str = STATE
    made: Document | None = None
    mount: Document | None = None
    moves: tuple[Move, ...] = ()
    is_open: bool = False
    limit: int | None = None
    warnings: tuple[str, ...] = ()


def choose_volume(pod: Document, server: int, request: InjectionRequest) -> ModelVolume:
    """Decide which volume puller and server share, and how much it may hold.

    Raises:
        InjectionImpossible: the server's mount at its model folder cannot be shared.
    """
    chosen = _choose(pod, server, request)
    volumes = (chosen.made, *(pod["spec"].get("volumes") or ()))
    volume = next(one for one in volumes if one is not None and one["name"] == chosen.name)
    if _source_of(volume) != _EMPTY_DIR:
        return chosen  # a file system of its own, which tells how much it may hold
    empty_dir, memory = volume.get(_EMPTY_DIR) or {}, request.resources.memory_limit
    warnings = chosen.warnings
    if is_in_memory(empty_dir) and memory:
        warnings += (_memory_warning(chosen.name, memory),)
    limit = volume_limit(pod["spec"], empty_dir, memory)
    return replace(chosen, limit=limit, warnings=warnings)


def _memory_warning(volume: str, memory: str) -> str:
    room = (memory_for_models(memory) or 0) // 2**20
    return (
        f"volume {volume} is in memory, so the puller's writes count against its memory limit of "
        f"{memory}: models may take {room}Mi. The annotation {names.MEMORY_LIMIT_ANNOTATION} "
        "changes the limit"
    )


def _choose(pod: Document, server: int, request: InjectionRequest) -> ModelVolume:
    container = pod["spec"]["containers"][server]
    check_no_mount_across(container, request.model_dir)
    index = mount_at(container, request.model_dir)
    if index < 0:
        return _new_volume(request)
    mount = container["volumeMounts"][index]
    volume = _volume_named(pod, container, mount)
    source = _source_of(volume)
    where = (
        f"volume {volume['name']}, which container {container.get('name')} mounts at "
        f"{request.model_dir},"
    )
    _check_writable(volume, source, where)
    _check_one_pods(pod, volume, source, where, request)
    warnings = _warnings(pod, source, where, request)
    if mount.get("subPathExpr"):
        raise InjectionImpossible(
            f"{where} is mounted by subPathExpr, which only that container can resolve: "
            "mount it by subPath"
        )
    folder = str(mount.get("subPath") or "").strip("/")
    if folder:
        if folder.split("/")[0] == HIDDEN_STATE:
            raise InjectionImpossible(
                f"{where} has the subPath {folder}, which is reserved for the puller: use another"
            )
        return ModelVolume(
            volume["name"],
            models=folder,
            state=HIDDEN_STATE,
            is_open=source == _EMPTY_DIR,
            warnings=warnings,
        )
    if source not in _BEGIN_EMPTY:
        raise InjectionImpossible(
            f"{where} is mounted without a subPath, which leaves the puller no room beside the "
            f"models: mount it with a subPath, for example subPath: {MODELS}"
        )
    return ModelVolume(
        volume["name"],
        moves=tuple(_moves(pod, volume["name"])),
        is_open=source == _EMPTY_DIR,
        warnings=warnings,
    )


def _new_volume(request: InjectionRequest) -> ModelVolume:
    limit = {"sizeLimit": request.volume_size} if request.volume_size else {}
    return ModelVolume(
        OWN_VOLUME,
        made={"name": OWN_VOLUME, "emptyDir": limit},
        mount={
            "name": OWN_VOLUME,
            "mountPath": request.model_dir,
            "subPath": MODELS,
            "readOnly": True,
        },
        is_open=True,
    )


def _volume_named(pod: Document, container: Document, mount: Document) -> Document:
    volumes: Sequence[Document] = pod["spec"].get("volumes") or ()
    for volume in volumes:
        if volume.get("name") == mount.get("name"):
            return volume
    raise InjectionImpossible(
        f"container {container.get('name')} mounts the volume {mount.get('name')!r}, "
        "which spec.volumes does not have"
    )


def _source_of(volume: Document) -> str:
    """Return which kind of volume it is; without a source it is an emptyDir."""
    return next((key for key in volume if key != "name"), _EMPTY_DIR)


def _check_writable(volume: Document, source: str, where: str) -> None:
    is_read_only = (volume.get(source) or {}).get("readOnly") is True
    if source in _NEVER_WRITABLE or is_read_only:
        raise InjectionImpossible(
            f"{where} is read-only ({source}), so the puller cannot write models there: name "
            f"another model folder in the annotation {names.MODEL_DIR_ANNOTATION}"
        )


def _check_one_pods(
    pod: Document, volume: Document, source: str, where: str, request: InjectionRequest
) -> None:
    if source in _BEGIN_EMPTY or request.is_volume_exclusive:
        return
    if source == _CLAIM and _is_claim_of_this_pod(pod, volume):
        return
    raise InjectionImpossible(
        f"{where} may be shared by several pods ({source}), but each pod needs its own: use an "
        "emptyDir or an ephemeral volume, name another model folder in the annotation "
        f"{names.MODEL_DIR_ANNOTATION}, or set {names.VOLUME_ANNOTATION}={EXCLUSIVE} if no other "
        "pod uses it"
    )


def _is_claim_of_this_pod(pod: Document, volume: Document) -> bool:
    """Tell whether a StatefulSet made the claim for this pod alone: it names it after the pod."""
    metadata = pod["metadata"]
    owners = metadata.get("ownerReferences") or ()
    name = metadata.get("name")
    claim = str((volume.get(_CLAIM) or {}).get("claimName"))
    is_stateful = any(
        owner.get("kind") == "StatefulSet" and owner.get("controller") for owner in owners
    )
    return bool(name) and is_stateful and claim.endswith(f"-{name}")


def _warnings(pod: Document, source: str, where: str, request: InjectionRequest) -> tuple[str, ...]:
    warnings = []
    if request.volume_size:
        warnings.append(f"{names.VOLUME_SIZE_ANNOTATION} has no effect: {where} is used as it is")
    if source != _EMPTY_DIR and "fsGroup" not in (pod["spec"].get("securityContext") or {}):
        warnings.append(
            f"{where} may belong to root: without spec.securityContext.fsGroup the puller may be "
            "unable to write to it"
        )
    return tuple(warnings)


def _moves(pod: Document, volume: str) -> Iterator[Move]:
    """Yield the change of each mount of a volume, in every container."""
    for kind in _LISTS:
        for at, container in enumerate(pod["spec"].get(kind) or ()):
            for index, mount in enumerate(container.get("volumeMounts") or ()):
                if mount.get("name") != volume:
                    continue
                field = "subPathExpr" if mount.get("subPathExpr") else "subPath"
                below = str(mount.get(field) or "").strip("/")
                path = f"/spec/{kind}/{at}/volumeMounts/{index}/{field}"
                yield Move(path, f"{MODELS}/{below}" if below else MODELS)
