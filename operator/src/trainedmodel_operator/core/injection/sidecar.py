"""The sidecar: the puller's container, and the volumes that it alone has.

It is a native sidecar (an init container that always restarts): it starts before the server and the
other init containers, and ends after them. It gets only what it needs:

- the four shards in one projected volume, all optional: a pod may start before its first model;
- the model volume, whole;
- a token of its own at the path where clients expect one. The explicit mount has two effects: a pod
  with `automountServiceAccountToken: false` keeps that for all its other containers, and where it
  is true, admission does not mount a second one here;
- the Secrets of its credential profiles, optional, so that a missing one fails the models that name
  it and not the pod;
- a scratch folder, because its root is read-only;
- rights of the pod security standard `restricted`, whatever the rest of the pod has.

No container waits for the puller to start: a startup probe would cost each pod one or two seconds
more, because the kubelet sees a new container, and runs its probes, once a second. Server and
puller may each restart alone at any time, so neither relies on the other. The first start decides
one thing only: which process makes the folder `models/`. In an emptyDir that is the kubelet: the
puller mounts the same subfolder as the server, so the folder is made before either starts, as open
as its volume, and never by both at once. In another volume the user decides, and only a folder of
the puller's own user is certain to suit it. There, and only there, a startup probe makes the other
containers wait until the puller has made the folder.

Probes. *Readiness*: a native sidecar's readiness counts for its pod, so the pod joins its service
when its first models are loaded (or have failed) and not before. *Liveness*: only a stuck loop is
restarted. The puller answers before it reads its volume, however long that takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from trainedmodel_contract import names

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.injection.request import (
    RUN_AS_SERVER,
    RUN_AS_UNSET,
    InjectionRequest,
)
from trainedmodel_operator.core.injection.resources import NOTHING_SAID, Resources, Said
from trainedmodel_operator.core.injection.volume import ModelVolume

CONFIG_VOLUME: Final = "trainedmodel-config"
ACCOUNT_VOLUME: Final = "trainedmodel-account"
SCRATCH_VOLUME: Final = "trainedmodel-scratch"
CREDENTIALS_VOLUME: Final = "trainedmodel-credentials"
CLAIM_VOLUME: Final = "trainedmodel-claim"

CONFIG_DIR: Final = "/etc/trainedmodel/models"
CREDENTIALS_DIR: Final = "/etc/trainedmodel/credentials"
VOLUME_DIR: Final = "/var/lib/trainedmodel/volume"
#: The folder `models/` once more, as the server sees it. Nothing is written there: a rename from
#: one mount to another is refused.
SERVED_DIR: Final = "/var/lib/trainedmodel/served"
CLAIMS_DIR: Final = "/var/lib/trainedmodel/claims"
ACCOUNT_DIR: Final = "/var/run/secrets/kubernetes.io/serviceaccount"

#: The puller's user, unless its pod or a setting names another.
USER: Final = 65532
#: An hour and seven seconds, as kube-apiserver's own tokens ask for; the kubelet renews it.
TOKEN_S: Final = 3607
#: How long a puller may take to start on a node that is just starting everything.
START_S: Final = 60
#: Every namespace has it: the authority of the API server.
_CA_CONFIG_MAP: Final = "kube-root-ca.crt"

_LIVE: Final = "/healthz"
_READY: Final = "/readyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectionSettings:
    """The flags for injected pullers.

    Attributes:
        image: Their image, unless a pod names another.
        resources: What the flags say about what they may use; a pod may say otherwise.
        run_as_user: Their user, unless a pod names another.
    """

    image: str
    pull_policy: str = "IfNotPresent"
    resources: Said = NOTHING_SAID
    run_as_user: str = RUN_AS_SERVER


def render_container(
    pod: Document,
    server: int,
    request: InjectionRequest,
    volume: ModelVolume,
    settings: InjectionSettings,
) -> dict[str, Any]:
    """Render the puller's container."""
    container: dict[str, Any] = {
        "name": names.PULLER_CONTAINER,
        "image": request.image or settings.image,
        "imagePullPolicy": settings.pull_policy,
        "restartPolicy": "Always",
        "args": list(_arguments(request, volume)),
        "env": [
            _downward("POD_NAME", "metadata.name"),
            _downward("POD_NAMESPACE", "metadata.namespace"),
            _downward("POD_UID", "metadata.uid"),
            *_limit(volume),
        ],
        "ports": [{"name": "puller", "containerPort": request.port, "protocol": "TCP"}],
        "readinessProbe": _probe(_READY, request.port, period=1, timeout=5, failures=3),
        "livenessProbe": {
            **_probe(_LIVE, request.port, period=10, timeout=5, failures=6),
            "initialDelaySeconds": START_S,
        },
        "resources": _resources(request.resources),
        "securityContext": _security(pod, server, request.run_as_user),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": list(_mounts(request, volume)),
    }
    if not volume.is_open:
        container["startupProbe"] = _probe(_LIVE, request.port, period=1, timeout=5, failures=300)
    if request.environment:
        container["envFrom"] = [
            {f"{'secret' if source.kind == 'secret' else 'configMap'}Ref": {"name": source.name}}
            for source in request.environment
        ]
    return container


def render_volumes(request: InjectionRequest, volume: ModelVolume) -> list[Document]:
    """Render the volumes that the pod has to be given."""
    shards = [
        {"configMap": {"name": name, "optional": True}}
        for name in names.shard_names(request.service)
    ]
    account = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_S}},
        {
            "configMap": {
                "name": _CA_CONFIG_MAP,
                "items": [{"key": "ca.crt", "path": "ca.crt"}],
            }
        },
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": _field("namespace")}]}},
    ]
    volumes: list[Document] = [
        {"name": CONFIG_VOLUME, "projected": {"sources": shards}},
        {"name": ACCOUNT_VOLUME, "projected": {"sources": account}},
        {"name": SCRATCH_VOLUME, "emptyDir": {}},
    ]
    if volume.made is not None:
        volumes.append(volume.made)
    for index, profile in enumerate(request.credentials):
        secret = {"secretName": profile.secret, "optional": True}
        volumes.append({"name": f"{CREDENTIALS_VOLUME}-{index}", "secret": secret})
    for index, claim in enumerate(request.claims):
        source = {"claimName": claim, "readOnly": True}
        volumes.append({"name": f"{CLAIM_VOLUME}-{index}", "persistentVolumeClaim": source})
    return volumes


def _arguments(request: InjectionRequest, volume: ModelVolume) -> Iterator[str]:
    """Yield the puller's flags. Whatever is not here may come from its environment."""
    yield f"--service={request.service}"
    yield f"--config-dir={CONFIG_DIR}"
    yield f"--model-dir={VOLUME_DIR}/{volume.models}"
    yield f"--state-dir={VOLUME_DIR}/{volume.state}"
    yield f"--server-model-dir={request.model_dir}"
    yield f"--server={request.server}"
    if request.server_port is not None:
        yield f"--server-url=http://127.0.0.1:{request.server_port}"
    yield f"--port={request.port}"
    yield f"--ready-when={request.ready_when}"
    if request.credentials:
        yield f"--credentials-dir={CREDENTIALS_DIR}"
    if request.claims:
        yield f"--pvc-root={CLAIMS_DIR}"


def _limit(volume: ModelVolume) -> Iterator[Document]:
    """Yield how much the volume may hold.

    By variables: an older puller, which a pod's annotation may name, does not know these flags.
    """
    if volume.limit is not None:
        yield {"name": "TRAINEDMODEL_VOLUME_LIMIT", "value": str(volume.limit)}
        yield {"name": "TRAINEDMODEL_VOLUME_DIR", "value": VOLUME_DIR}


def _mounts(request: InjectionRequest, volume: ModelVolume) -> Iterator[Document]:
    yield {"name": CONFIG_VOLUME, "mountPath": CONFIG_DIR, "readOnly": True}
    yield {"name": ACCOUNT_VOLUME, "mountPath": ACCOUNT_DIR, "readOnly": True}
    yield {"name": SCRATCH_VOLUME, "mountPath": "/tmp"}  # noqa: S108 - a volume of its own
    yield {"name": volume.name, "mountPath": VOLUME_DIR}
    if volume.is_open:
        yield {
            "name": volume.name,
            "mountPath": SERVED_DIR,
            "subPath": volume.models,
            "readOnly": True,
        }
    for index, profile in enumerate(request.credentials):
        yield {
            "name": f"{CREDENTIALS_VOLUME}-{index}",
            "mountPath": f"{CREDENTIALS_DIR}/{profile.name}",
            "readOnly": True,
        }
    for index, claim in enumerate(request.claims):
        yield {
            "name": f"{CLAIM_VOLUME}-{index}",
            "mountPath": f"{CLAIMS_DIR}/{claim}",
            "readOnly": True,
        }


def _security(pod: Document, server: int, run_as_user: str) -> dict[str, Any]:
    """Return the rights: none, and a user that is not root."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        **_user(pod["spec"], server, run_as_user),
    }


def _user(spec: Document, server: int, run_as_user: str) -> dict[str, int]:
    """Return the puller's user; empty if the pod or the cluster decides.

    By default it is the user of the server's container, else the pod's, if that is not root. Where
    a cluster prescribes users for each namespace, and writes them into the containers (OpenShift),
    that user is one that is allowed. One user for puller and server also spares the question of who
    may read what.
    """
    if run_as_user == RUN_AS_UNSET:
        return {}
    if run_as_user != RUN_AS_SERVER:
        return {"runAsUser": int(run_as_user)}
    of_server = spec["containers"][server].get("securityContext") or {}
    if of_server.get("runAsUser"):
        taken = ("runAsUser", "runAsGroup")
        return {key: of_server[key] for key in taken if of_server.get(key) is not None}
    if (spec.get("securityContext") or {}).get("runAsUser"):
        return {}
    return {"runAsUser": USER, "runAsGroup": USER}


def _resources(wanted: Resources) -> dict[str, dict[str, str]]:
    requests = {"cpu": wanted.cpu_request, "memory": wanted.memory_request}
    limits = {"cpu": wanted.cpu_limit, "memory": wanted.memory_limit}
    told = {"requests": requests, "limits": limits}
    return {
        kind: present
        for kind, quantities in told.items()
        if (present := {name: value for name, value in quantities.items() if value})
    }


def _probe(path: str, port: int, *, period: int, timeout: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": port, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


def _downward(variable: str, path: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _field(name: str) -> dict[str, str]:
    return {"fieldPath": f"metadata.{name}"}
