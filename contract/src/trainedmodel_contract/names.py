"""Names on the wire: API group, labels, annotations, ConfigMap names and keys.

They are the contract's most expensive part to change, so each is spelled exactly once, here.
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
#: What the webhook writes over `enabled` on a pod that serves no models (KServe hands its labels to
#: transformers too): it gets no puller, and must not be counted as a copy.
INJECT_SKIPPED: Final = "skipped"

#: On a pod, either label names its parent: KServe's own, or ours for any other workload.
PARENT_POD_LABELS: Final = ("serving.kserve.io/inferenceservice", PARENT_LABEL)

#: On a pod: the config digest that the operator last nudged for. A changed annotation makes the
#: kubelet refresh the pod's volumes at once instead of after a minute.
CONFIG_ANNOTATION: Final = f"{GROUP}/config-digest"

#: On a pod: the name of its model server's container, where that is not to be guessed.
CONTAINER_ANNOTATION: Final = f"{GROUP}/container"
#: On a pod, or on the InferenceService that hands them down: how the webhook injects the puller.
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

#: What `trainedmodel.dev/server` may say, and the puller's `--server` with it.
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
#: Where the API for loading models listens unless somebody says otherwise; a kind that is not here
#: has no port of its own.
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
#: What `trainedmodel.dev/ready-when` may say, and the puller's `--ready-when` with it.
READY_WHEN: Final = ("settled", "all", "server")
#: Port of the puller's probes, status and metrics.
PULLER_PORT: Final = 9180
#: What the webhook calls the container that it adds.
PULLER_CONTAINER: Final = "trainedmodel-puller"
#: What KServe calls a model server's container.
KSERVE_CONTAINER: Final = "kserve-container"
#: What a puller's container is called, as a sidecar or as one container among others.
PULLER_CONTAINERS: Final = frozenset({"trainedmodel-puller", "puller"})

#: On a ModelReport: when its puller last said that it lives, RFC 3339, and within how many seconds
#: it says so again. In the metadata, so that a heartbeat changes no generation: whoever reads
#: reports need not read one again for it.
HEARTBEAT_ANNOTATION: Final = f"{GROUP}/heartbeat"
HEARTBEAT_SECONDS_ANNOTATION: Final = f"{GROUP}/heartbeat-seconds"

#: Four ConfigMaps a parent are mounted into each pod; all are optional.
SHARD_COUNT: Final = 4
#: Bytes of keys and values a shard may hold. A ConfigMap's limit is 1 MiB of data; etcd's
#: 1.5 MB counts managedFields too, which list every key (measured: 105 KB for 5,000 keys).
SHARD_BUDGET_BYTES: Final = 900_000

MODEL_NAME_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"
#: An InferenceService's name, and the value of a label.
PARENT_NAME_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
PROFILE_NAME_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"

#: metadata.name of a TrainedModel: it makes a ConfigMap key (253 characters at most) and, unless
#: spec.model.name says otherwise, a name in the model server's URLs.
MAX_OBJECT_NAME: Final = 128

_MODEL_NAME = re.compile(MODEL_NAME_PATTERN)
_ENTRY_SUFFIX = ".json"
_MANIFEST_PREFIX = "_shard-"


def is_model_name(name: str) -> bool:
    """Tell whether `name` is safe as a served name: one path segment, one URL segment.

    Model servers do not agree on percent escapes (Triton decodes none), and a name with `/` or
    `..` could leave the model folder, so only `[A-Za-z0-9_.-]` is let through, no leading `.` or
    `-`, and no `..` anywhere.
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
    """Return the TrainedModel's name that an entry key stands for, or None for any other key."""
    if not key.endswith(_ENTRY_SUFFIX) or key.startswith(_MANIFEST_PREFIX):
        return None
    return key.removesuffix(_ENTRY_SUFFIX) or None


def manifest_key(index: int) -> str:
    """Name the ConfigMap key of a shard's manifest."""
    return f"{_MANIFEST_PREFIX}{index}"


def manifest_index(key: str) -> int | None:
    """Return the shard index that a manifest key stands for, or None for any other key."""
    digits = key.removeprefix(_MANIFEST_PREFIX)
    if digits == key or not digits.isascii() or not digits.isdigit():
        return None
    index = int(digits)
    return index if manifest_key(index) == key and index < SHARD_COUNT else None
