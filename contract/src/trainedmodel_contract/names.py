"""Names of the contract: API group, labels, annotations, ConfigMap names and keys.

A changed name breaks all installed programs, so each is written once, here.
"""

from __future__ import annotations

import re
from typing import Final

GROUP: Final = "trainedmodel.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "trainedmodel-operator"
PARENT_LABEL: Final = f"{GROUP}/inference-service"
SHARD_LABEL: Final = f"{GROUP}/shard"
INJECT_LABEL: Final = f"{GROUP}/inject"
INJECT_VALUE: Final = "enabled"
#: The webhook replaces `enabled` by it on a pod that serves no models (KServe passes its labels on
#: to transformers too). Such a pod gets no puller and does not count as a copy.
INJECT_SKIPPED: Final = "skipped"

#: On a pod, either label names its service: KServe's label, or this project's for other workloads.
PARENT_POD_LABELS: Final = ("serving.kserve.io/inferenceservice", PARENT_LABEL)

#: On a pod: the config digest that the operator last nudged for. A changed annotation makes the
#: kubelet refresh the pod's volumes at once instead of after a minute.
CONFIG_ANNOTATION: Final = f"{GROUP}/config-digest"

#: On a pod: the name of its model server's container, if the default rule finds the wrong one.
CONTAINER_ANNOTATION: Final = f"{GROUP}/container"
#: On a pod, or on the InferenceService that passes them on: options of the injection.
SERVER_ANNOTATION: Final = f"{GROUP}/server"
SERVER_PORT_ANNOTATION: Final = f"{GROUP}/server-port"
MODEL_DIR_ANNOTATION: Final = f"{GROUP}/model-dir"
CREDENTIALS_ANNOTATION: Final = f"{GROUP}/credentials"
CLAIMS_ANNOTATION: Final = f"{GROUP}/claims"
ENVIRONMENT_ANNOTATION: Final = f"{GROUP}/environment"
VOLUME_ANNOTATION: Final = f"{GROUP}/volume"
VOLUME_SIZE_ANNOTATION: Final = f"{GROUP}/volume-size"
IMAGE_ANNOTATION: Final = f"{GROUP}/image"
PORT_ANNOTATION: Final = f"{GROUP}/port"
READY_WHEN_ANNOTATION: Final = f"{GROUP}/ready-when"
CPU_REQUEST_ANNOTATION: Final = f"{GROUP}/cpu-request"
CPU_LIMIT_ANNOTATION: Final = f"{GROUP}/cpu-limit"
MEMORY_REQUEST_ANNOTATION: Final = f"{GROUP}/memory-request"
MEMORY_LIMIT_ANNOTATION: Final = f"{GROUP}/memory-limit"
QOS_ANNOTATION: Final = f"{GROUP}/qos"
RUN_AS_USER_ANNOTATION: Final = f"{GROUP}/run-as-user"

#: Values of `trainedmodel.dev/server` and of the puller's `--server`.
SERVER_KINDS: Final = (
    "auto",
    "mlserver",
    "triton",
    "kserve",
    "torchserve",
    "mms",
    "llama",
    "vllm",
    "sglang",
    "tfs",
    "ovms",
    "none",
)
#: Default port of each kind's API for loading models; a kind that is missing here has no port.
SERVER_PORTS: Final = {
    "mlserver": 8080,
    "triton": 8000,
    "kserve": 8080,
    "torchserve": 8081,
    "mms": 8081,
    "llama": 8080,
    "vllm": 8000,
    "sglang": 30000,
    "tfs": 8501,
    "ovms": 8000,
}
#: Values of `trainedmodel.dev/ready-when` and of the puller's `--ready-when`.
READY_WHEN: Final = ("settled", "all", "server")
#: Port of the puller's probes, status and metrics.
PULLER_PORT: Final = 9180
#: Name of the container that the webhook adds.
PULLER_CONTAINER: Final = "trainedmodel-puller"
#: Name of the model server's container in pods of KServe.
KSERVE_CONTAINER: Final = "kserve-container"
#: Names of a puller's container, as a sidecar or as an ordinary container.
PULLER_CONTAINERS: Final = frozenset({"trainedmodel-puller", "puller"})

#: On a ModelReport: the time of its puller's last heartbeat, RFC 3339, and the seconds until the
#: next one at most. They are in the metadata, so that a heartbeat changes no generation and readers
#: need not read the report again.
HEARTBEAT_ANNOTATION: Final = f"{GROUP}/heartbeat"
HEARTBEAT_SECONDS_ANNOTATION: Final = f"{GROUP}/heartbeat-seconds"

#: Each pod mounts the four ConfigMaps of its service; all are optional.
SHARD_COUNT: Final = 4
#: Limit of a shard's keys and values, bytes. A ConfigMap's limit is 1 MiB of data; etcd's 1.5 MB
#: counts managedFields too, which list every key (measured: 105 KB for 5,000 keys).
SHARD_BUDGET_BYTES: Final = 900_000

MODEL_NAME_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"
#: An InferenceService's name, and the value of a label.
PARENT_NAME_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
PROFILE_NAME_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"

#: Limit of a TrainedModel's metadata.name. It becomes a ConfigMap key (253 characters at most) and,
#: unless spec.model.name is set, a name in the model server's URLs.
MAX_OBJECT_NAME: Final = 128

_MODEL_NAME = re.compile(MODEL_NAME_PATTERN)
_ENTRY_SUFFIX = ".json"
_MANIFEST_PREFIX = "_shard-"


def is_model_name(name: str) -> bool:
    """Return whether `name` is safe as a served name: one path segment and one URL segment.

    Model servers differ in percent escapes (Triton decodes none), and a name with `/` or `..` could
    leave the model folder. So only `[A-Za-z0-9_.-]` is valid, without a leading `.` or `-`, and
    without `..`.
    """
    return _MODEL_NAME.fullmatch(name) is not None and ".." not in name


def shard_name(parent: str, index: int) -> str:
    """Name the ConfigMap of one shard of `parent`."""
    return f"{parent}-models-{index}"


def shard_names(parent: str) -> tuple[str, ...]:
    """Name all shards of `parent`, in mount order."""
    return tuple(shard_name(parent, index) for index in range(SHARD_COUNT))


def entry_key(object_name: str) -> str:
    """Name the ConfigMap key (and mounted file) of a TrainedModel's entry."""
    return object_name + _ENTRY_SUFFIX


def object_name(key: str) -> str | None:
    """Return the TrainedModel's name of an entry key, or None for any other key."""
    if not key.endswith(_ENTRY_SUFFIX) or key.startswith(_MANIFEST_PREFIX):
        return None
    return key.removesuffix(_ENTRY_SUFFIX) or None


def manifest_key(index: int) -> str:
    """Name the ConfigMap key of a shard's manifest."""
    return f"{_MANIFEST_PREFIX}{index}"


def manifest_index(key: str) -> int | None:
    """Return the shard index of a manifest key, or None for any other key."""
    digits = key.removeprefix(_MANIFEST_PREFIX)
    if digits == key or not digits.isascii() or not digits.isdigit():
        return None
    index = int(digits)
    return index if manifest_key(index) == key and index < SHARD_COUNT else None
