"""InjectionRequest: the labels and annotations of a pod, read strictly.

An invalid value is refused and never replaced by a default: a pod that starts with other values
than the requested ones is harder to notice than one that reports why it does not start. An unknown
annotation of this group causes only a warning: it may be meant for a newer operator.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from trainedmodel_contract import names
from trainedmodel_contract.quantity import parse_bytes

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.injection.resources import (
    CPU_LIMIT,
    CPU_REQUEST,
    MEMORY_LIMIT,
    MEMORY_REQUEST,
    NOTHING_SAID,
    QOS,
    Resources,
    ResourcesDisagree,
    Said,
    settle,
)
from trainedmodel_operator.core.server import DEFAULT_MODEL_DIR
from trainedmodel_operator.errors import InjectionImpossible

T = TypeVar("T")

#: The one value of `trainedmodel.dev/volume`.
EXCLUSIVE: Final = "exclusive"
#: Words of `trainedmodel.dev/run-as-user`: as the model server, if that is not root; and whom the
#: cluster (or the image) says, because the pod does not say it.
RUN_AS_SERVER: Final = "server"
RUN_AS_UNSET: Final = "unset"
_LARGEST_USER: Final = 2**31 - 1

_CPU = re.compile(r"^([0-9]+m|[0-9]+(\.[0-9]{1,3})?)$")
_OBJECT_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")
_USER = re.compile(r"^[1-9][0-9]{0,9}$")
_PROFILE = re.compile(names.PROFILE_NAME_PATTERN)
_PARENT = re.compile(names.PARENT_NAME_PATTERN)
_IMAGE = re.compile(r"^[^\s]{1,512}$")
_FOLDER = re.compile(r"^/[A-Za-z0-9._/-]{1,255}$")

_KNOWN: Final = frozenset(
    {
        names.CONFIG_ANNOTATION,
        names.CONTAINER_ANNOTATION,
        names.SERVER_ANNOTATION,
        names.SERVER_PORT_ANNOTATION,
        names.MODEL_DIR_ANNOTATION,
        names.CREDENTIALS_ANNOTATION,
        names.CLAIMS_ANNOTATION,
        names.ENVIRONMENT_ANNOTATION,
        names.VOLUME_ANNOTATION,
        names.VOLUME_SIZE_ANNOTATION,
        names.IMAGE_ANNOTATION,
        names.PORT_ANNOTATION,
        names.READY_WHEN_ANNOTATION,
        names.CPU_REQUEST_ANNOTATION,
        names.CPU_LIMIT_ANNOTATION,
        names.MEMORY_REQUEST_ANNOTATION,
        names.MEMORY_LIMIT_ANNOTATION,
        names.QOS_ANNOTATION,
        names.RUN_AS_USER_ANNOTATION,
    }
)


@dataclass(frozen=True, slots=True)
class Profile:
    """A credential profile, and the Secret that it is mounted from."""

    name: str
    secret: str


@dataclass(frozen=True, slots=True)
class EnvironmentSource:
    """A Secret or ConfigMap whose keys become variables of the puller."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectionRequest:
    """The values that one pod asks for.

    Attributes:
        service: The service whose models the pod serves.
        server_port: Where the server's API for loading listens; None: as its kind does.
        model_dir: Where the server looks for its models, normalised.
        claims: PersistentVolumeClaims that `pvc://` URIs may read from.
        volume_size: Limit of the volume that is made; None: none.
        run_as_user: The puller's user: a number, `RUN_AS_SERVER` or `RUN_AS_UNSET`.
        is_volume_exclusive: The pod's owner vouches that no other pod uses the model volume.
        unknown: Annotations of this group that are not known.
    """

    service: str
    server: str
    server_port: int | None
    model_dir: str
    credentials: tuple[Profile, ...]
    claims: tuple[str, ...]
    environment: tuple[EnvironmentSource, ...]
    volume_size: str | None
    is_volume_exclusive: bool
    image: str | None
    port: int
    ready_when: str
    resources: Resources
    run_as_user: str
    unknown: tuple[str, ...]


def parse_annotations(
    metadata: Document, resources: Said = NOTHING_SAID, run_as_user: str = RUN_AS_SERVER
) -> InjectionRequest:
    """Read what a pod asks for; what it does not say is as the operator's flags say, or its kind.

    Args:
        metadata: The pod's.
        resources: What the flags say about resources.
        run_as_user: What they say about the puller's user.

    Raises:
        InjectionImpossible: a label is missing, or a value is not understood.
    """
    annotations: Mapping[str, str] = metadata.get("annotations") or {}

    def read(key: str, reader: Callable[[str], T], default: T) -> T:
        text = annotations.get(key)
        if text is None:
            return default
        try:
            return reader(text.strip())
        except ValueError as error:
            raise InjectionImpossible(f"annotation {key}={text!r:.120}: {error}") from error

    return InjectionRequest(
        service=_service(metadata.get("labels") or {}),
        server=read(names.SERVER_ANNOTATION, _one_of(names.SERVER_KINDS), names.SERVER_KINDS[0]),
        server_port=read(names.SERVER_PORT_ANNOTATION, _port, None),
        model_dir=read(names.MODEL_DIR_ANNOTATION, _folder, DEFAULT_MODEL_DIR),
        credentials=read(names.CREDENTIALS_ANNOTATION, _profiles, ()),
        claims=read(names.CLAIMS_ANNOTATION, _claims, ()),
        environment=read(names.ENVIRONMENT_ANNOTATION, _environment, ()),
        volume_size=read(names.VOLUME_SIZE_ANNOTATION, read_size, None),
        is_volume_exclusive=read(names.VOLUME_ANNOTATION, _one_of((EXCLUSIVE,)), "") == EXCLUSIVE,
        image=read(names.IMAGE_ANNOTATION, _image, None),
        port=read(names.PORT_ANNOTATION, _port, None) or names.PULLER_PORT,
        ready_when=read(
            names.READY_WHEN_ANNOTATION, _one_of(names.READY_WHEN), names.READY_WHEN[0]
        ),
        resources=_resources(read, resources),
        run_as_user=read(names.RUN_AS_USER_ANNOTATION, read_user, run_as_user),
        unknown=tuple(
            sorted(
                key
                for key in annotations
                if key.startswith(f"{names.GROUP}/") and key not in _KNOWN
            )
        ),
    )


def _resources(read: Callable[..., str | None], flags: Said) -> Resources:
    said = {field: read(key, reader, None) for field, (key, reader) in _QUANTITIES.items()}
    pod = Said(
        {field: value for field, value in said.items() if value is not None},
        read(names.QOS_ANNOTATION, _one_of(QOS), None),
        lambda field: f"annotation {_SPELLED[field]}",
    )
    try:
        return settle(flags, pod)
    except ResourcesDisagree as error:
        raise InjectionImpossible(str(error)) from error


def _service(labels: Mapping[str, str]) -> str:
    found = {key: labels[key] for key in names.PARENT_POD_LABELS if labels.get(key)}
    if not found:
        raise InjectionImpossible(
            f"the pod names no service: set the label {names.PARENT_LABEL} to the "
            "spec.inferenceService of its TrainedModels"
        )
    if len(set(found.values())) > 1:
        told = " and ".join(f"{key}={value}" for key, value in found.items())
        raise InjectionImpossible(
            f"the pod names two services, {told}: remove the label {names.PARENT_LABEL}, "
            "or make both equal"
        )
    key, service = next(iter(found.items()))
    if _PARENT.fullmatch(service) is None:
        raise InjectionImpossible(
            f"label {key}={service!r} is not a service's name: use lower-case letters, digits "
            "and '-'"
        )
    return service


def _one_of(allowed: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be {' or '.join(allowed)}")
        return text

    return read


def _port(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ValueError("must be a port, 1 to 65535")
    return int(text)


def _folder(text: str) -> str:
    folder = posixpath.normpath(text)
    if _FOLDER.fullmatch(folder) is None or ".." in text.split("/"):
        raise ValueError("must be an absolute path such as /mnt/models, without '..', and not '/'")
    return folder


def _list_of(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    found = [part for part in parts if part]
    if not found:
        raise ValueError("must name at least one")
    if len(set(found)) != len(found):
        raise ValueError("names an item twice")
    return found


def _profiles(text: str) -> tuple[Profile, ...]:
    profiles: dict[str, Profile] = {}
    for part in _list_of(text):
        name, _, secret = part.rpartition("=")
        profile = Profile(name.strip() or secret.strip(), secret.strip())
        if _OBJECT_NAME.fullmatch(profile.secret) is None:
            raise ValueError(f"{part!r} must be <secret> or <profile>=<secret>")
        if _PROFILE.fullmatch(profile.name) is None:
            raise ValueError(
                f"{profile.name!r} is not a profile's name (lower-case letters, digits, '-'): "
                f"write <profile>={profile.secret}"
            )
        if profile.name in profiles:
            raise ValueError(f"names the profile {profile.name!r} twice")
        profiles[profile.name] = profile
    return tuple(profiles.values())


def _claims(text: str) -> tuple[str, ...]:
    claims = _list_of(text)
    for claim in claims:
        if _OBJECT_NAME.fullmatch(claim) is None:
            raise ValueError(f"{claim!r} must be the name of a PersistentVolumeClaim")
    return tuple(claims)


def _environment(text: str) -> tuple[EnvironmentSource, ...]:
    sources = []
    for part in _list_of(text):
        kind, _, name = part.partition("/")
        if kind not in {"secret", "configmap"} or _OBJECT_NAME.fullmatch(name) is None:
            raise ValueError(f"{part!r} must be secret/<name> or configmap/<name>")
        sources.append(EnvironmentSource(kind, name))
    return tuple(sources)


def read_user(text: str) -> str:
    """Read the puller's user.

    Raises:
        ValueError: it is neither a user nor one of the words.
    """
    if text in {RUN_AS_SERVER, RUN_AS_UNSET}:
        return text
    if _USER.fullmatch(text) is None or int(text) > _LARGEST_USER:
        raise ValueError(
            f"must be {RUN_AS_SERVER}, {RUN_AS_UNSET}, or the numeric ID of a user that is not root"
        )
    return text


def read_size(text: str) -> str:
    """Read a size in bytes.

    Raises:
        ValueError: it is none, or nothing.
    """
    if parse_bytes(text) <= 0:
        raise ValueError("must be greater than zero")
    return text


def read_cpu(text: str) -> str:
    """Read a number of processors.

    Raises:
        ValueError: it is none, or nothing.
    """
    if _CPU.fullmatch(text) is None or not text.strip("0.m"):
        raise ValueError("must be a CPU quantity such as 100m or 0.5")
    return text


def _image(text: str) -> str:
    if _IMAGE.fullmatch(text) is None:
        raise ValueError("must be the name of an image")
    return text


#: The quantities of resources: their annotations, and how each is read.
_QUANTITIES: Final[Mapping[str, tuple[str, Callable[[str], str]]]] = {
    CPU_REQUEST: (names.CPU_REQUEST_ANNOTATION, read_cpu),
    CPU_LIMIT: (names.CPU_LIMIT_ANNOTATION, read_cpu),
    MEMORY_REQUEST: (names.MEMORY_REQUEST_ANNOTATION, read_size),
    MEMORY_LIMIT: (names.MEMORY_LIMIT_ANNOTATION, read_size),
}
_SPELLED: Final = {field: key for field, (key, _) in _QUANTITIES.items()} | {
    "qos": names.QOS_ANNOTATION
}
