"""The pods of the suite: a plain Deployment, and the three forms that KServe makes.

None of them knows of the puller. `Injection` is the one place that decides how it gets in: by the
webhook that was installed, or, without one, by the same pure function, applied to the template.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import jsonpatch
from trainedmodel_contract import names
from trainedmodel_operator.core.injection.inject import inject
from trainedmodel_operator.core.injection.sidecar import InjectionSettings

from e2e.kubectl import Json

SERVER_PORT = 8080
STORE_SECRET = "store"
SERVER = "server"

_PROBE = {
    "httpGet": {"path": "/v2/health/live", "port": SERVER_PORT},
    "periodSeconds": 1,
    "failureThreshold": 60,
}


@dataclass(frozen=True)
class Injection:
    """How pods get their puller."""

    by_webhook: bool
    puller_image: str

    def into(self, deployment: Json) -> Json:
        """Return what is to be applied so that pods that ask for a puller have one."""
        template = deployment["spec"]["template"]
        if self.by_webhook or names.INJECT_LABEL not in template["metadata"]["labels"]:
            return deployment
        changed = copy.deepcopy(deployment)
        answer = inject(template, InjectionSettings(image=self.puller_image))
        if answer.refusal is not None:
            raise ValueError(answer.refusal)
        changed["spec"]["template"] = jsonpatch.apply_patch(template, list(answer.patch))
        return changed


def plain(service: str, image: str, *, replicas: int = 1) -> Json:
    """Describe a Deployment of a model server, with the label and annotations of our docs."""
    labels = {names.PARENT_LABEL: service, "app": service}
    return _deployment(service, labels, _server(SERVER, image), replicas)


def kserve_custom(service: str, image: str) -> Json:
    """Describe the Deployment that KServe makes of an InferenceService with a custom predictor."""
    return _deployment(f"{service}-predictor", _kserve(service), _server("kserve-container", image))


def kserve_multi_model(service: str, image: str) -> Json:
    """Describe the one of a multi-model runtime: KServe's agent, and its volume in both.

    The agent itself is not here; a container of its name, port and mounts stands in its place.
    """
    deployment = _deployment(
        f"{service}-predictor", _kserve(service), _server("kserve-container", image)
    )
    pod = deployment["spec"]["template"]["spec"]
    mount = {"name": "model-dir", "mountPath": "/mnt/models"}
    agent = {
        "name": "agent",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "http.server", "9081"],
        "ports": [{"name": "agent-port", "containerPort": 9081}],
        "volumeMounts": [mount],
    }
    pod["containers"][0]["volumeMounts"] = [mount]
    pod["containers"].append(agent)
    pod["volumes"] = [{"name": "model-dir", "emptyDir": {}}]
    return deployment


def kserve_storage_uri(service: str, image: str) -> Json:
    """Describe the one of a `model:` with a storageUri: its initializer fills a volume first."""
    deployment = _deployment(
        f"{service}-predictor", _kserve(service), _server("kserve-container", image)
    )
    pod = deployment["spec"]["template"]["spec"]
    mount = {"name": "kserve-provision-location", "mountPath": "/mnt/models"}
    fetch = "mkdir -p /mnt/models/base && echo '{}' > /mnt/models/base/weights.json"
    initializer = {
        "name": "storage-initializer",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", fetch],
        "volumeMounts": [mount],
    }
    pod["initContainers"] = [initializer]
    pod["containers"][0]["volumeMounts"] = [{**mount, "readOnly": True}]
    pod["volumes"] = [{"name": "kserve-provision-location", "emptyDir": {}}]
    return deployment


def _kserve(service: str) -> dict[str, str]:
    return {
        "serving.kserve.io/inferenceservice": service,
        "component": "predictor",
        "app": f"isvc.{service}-predictor",
    }


def _server(name: str, image: str) -> Json:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": SERVER_PORT}],
        "readinessProbe": _PROBE,
        "resources": {"requests": {"cpu": "10m", "memory": "128Mi"}},
    }


def _deployment(name: str, labels: dict[str, str], server: Json, replicas: int = 1) -> Json:
    annotations = {
        names.SERVER_ANNOTATION: "mlserver",
        names.ENVIRONMENT_ANNOTATION: f"secret/{STORE_SECRET}",
    }
    template = {
        "metadata": {
            "labels": {**labels, names.INJECT_LABEL: names.INJECT_VALUE},
            "annotations": annotations,
        },
        "spec": {"containers": [server], "terminationGracePeriodSeconds": 10},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": labels["app"]}},
            "template": template,
        },
    }
