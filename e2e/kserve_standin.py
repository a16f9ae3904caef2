"""What KServe does around an InferenceService, as little of it as a migration touches.

Its controller makes a Deployment and a Service of an InferenceService, and hands labels and
annotations down. Of its TrainedModels it makes a ConfigMap, which the agent in the pods follows
(`kserve_agent`). Objects are followed by looking at them a few times a second.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from support.kserve_kind import CRD, TRAINED_MODEL_CRD
from trainedmodel_devkit.models import write_scale_mlserver

from e2e.bench import BUCKET, Bench
from e2e.kubectl import Json, Refused
from e2e.workloads import SERVER_PORT, kserve_custom, kserve_multi_model

KSERVE_MODELS = "trainedmodels.serving.kserve.io"
KSERVE_SERVICES = "inferenceservices.serving.kserve.io"
_AGENT = Path(__file__).with_name("kserve_agent.py")
_LOOK_EVERY_S = 0.3


class KServe:
    """A stand-in for the controller, for one namespace; a context manager."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self._bench = bench
        self._folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._applied: dict[str, str] = {}
        self._store = ""

    def __enter__(self) -> KServe:
        cluster = self._bench.cluster()
        cluster("apply", "-f", "-", documents=[CRD, TRAINED_MODEL_CRD])
        cluster("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        handler = functools.partial(_Quiet, directory=str(self._folder))
        self._server = ThreadingHTTPServer((self._bench.provider.store_host, 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        host, port = self._server.server_address[:2]
        self._store = f"http://{host!s}:{port}"
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(60)
        self._server.shutdown()
        self._server.server_close()
        crds = [str(one["metadata"]["name"]) for one in (CRD, TRAINED_MODEL_CRD)]
        self._bench.cluster()("delete", "crd", *crds, "--wait=false")

    def publish(self, name: str, k: float) -> str:
        """Put a model where both the agent and the puller find it, and return its address."""
        prefix = f"{self._bench.namespace}/kserve/{name}"
        tree = write_scale_mlserver(self._folder / BUCKET / prefix, k)
        uri = self._bench.store.put_tree(BUCKET, prefix, tree)
        names = [one.name for one in tree.iterdir()]
        (tree / "index.json").write_text(json.dumps(names))
        return uri

    def _follow(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_S):
            try:
                self._look()
            except Refused as error:  # an API server that is busy: the next look comes soon
                print(f"stand-in: {error}")

    def _look(self) -> None:
        models = self._bench.list_all(KSERVE_MODELS)
        for service in self._bench.list_all(KSERVE_SERVICES):
            name = service["metadata"]["name"]
            own = [one for one in models if one["spec"]["inferenceService"] == name]
            self._apply(_config_map(name, own))
            self._apply(_service(name))
            self._apply(self._deployment(service))
        for model in models:
            wanted = {"inferenceservice": model["spec"]["inferenceService"]}
            if (model["metadata"].get("labels") or {}).items() < wanted.items():
                patch = json.dumps({"metadata": {"labels": wanted}})
                name = model["metadata"]["name"]
                self._bench.kubectl("patch", KSERVE_MODELS, name, "--type=merge", "-p", patch)

    def _apply(self, document: Json) -> None:
        key, text = f"{document['kind']}/{document['metadata']['name']}", json.dumps(document)
        if self._applied.get(key) == text:
            return
        if document["kind"] == "Deployment":
            self._bench.apply_deployment(document)
        else:
            self._bench.apply(document)
        self._applied[key] = text

    def _deployment(self, service: Json) -> Json:
        metadata, predictor = service["metadata"], service["spec"]["predictor"]
        name, image = str(metadata["name"]), self._bench.provider.images.server
        if predictor.get("containers"):
            made = kserve_custom(name, image)
            made["spec"]["template"]["spec"]["containers"] = predictor["containers"]
        else:
            made = kserve_multi_model(name, image)
            _with_agent(made, name, self._store)
        annotations = {
            key: text
            for key, text in (metadata.get("annotations") or {}).items()
            if not key.startswith("kubectl.kubernetes.io/")
        }
        template = made["spec"]["template"]["metadata"]
        template["labels"] = {**made["metadata"]["labels"], **(metadata.get("labels") or {})}
        template["annotations"] = annotations
        return made


def kserve_service(name: str) -> Json:
    """Describe an InferenceService of a multi-model runtime, as KServe's users have it."""
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {
            "predictor": {"model": {"modelFormat": {"name": "sklearn"}, "runtime": "multi-model"}}
        },
    }


def kserve_model(name: str, service: str, uri: str) -> Json:
    """Describe one of KServe's TrainedModels."""
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "TrainedModel",
        "metadata": {"name": name},
        "spec": {
            "inferenceService": service,
            "model": {"storageUri": uri, "framework": "mlserver", "memory": "64Mi"},
        },
    }


def _with_agent(deployment: Json, service: str, store: str) -> None:
    """Make the container that stands in the agent's place behave like it."""
    pod = deployment["spec"]["template"]["spec"]
    agent = next(one for one in pod["containers"] if one["name"] == "agent")
    server = f"http://127.0.0.1:{SERVER_PORT}"
    agent["command"] = ["python3", "-c", _AGENT.read_text()]
    agent["args"] = ["/mnt/configs", "/mnt/models", server, store]
    agent["volumeMounts"].append({"name": "model-config", "mountPath": "/mnt/configs"})
    config = {"name": f"modelconfig-{service}-0"}
    pod["volumes"].append({"name": "model-config", "configMap": config})


def _config_map(service: str, models: list[Json]) -> Json:
    entries = [
        {"modelName": one["metadata"]["name"], "modelSpec": one["spec"]["model"]} for one in models
    ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"modelconfig-{service}-0"},
        "data": {"models.json": json.dumps(entries)},
    }


def _service(name: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{name}-predictor"},
        "spec": {
            "selector": {"serving.kserve.io/inferenceservice": name},
            "ports": [{"port": 80, "targetPort": SERVER_PORT}],
        },
    }


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def asked_in_the_cluster(bench: Bench, service: str, models: dict[str, float]) -> Iterator[str]:
    """Ask the models of a service from within the cluster; give the asking pod's name.

    `models` has the factor by which each model multiplies.
    """
    address = bench.get("service", f"{service}-predictor")["spec"]["clusterIP"]
    script = Path(__file__).with_name("traffic_pod.py").read_text()
    name = f"traffic-{service}"
    container = {
        "name": "traffic",
        "image": bench.provider.images.server,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", script],
        "args": [address, *(f"{name}={factor}" for name, factor in models.items())],
        "resources": {"requests": {"cpu": "10m"}},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }
    bench.apply(pod)
    try:
        bench.kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=110s")
        yield name
    finally:
        bench.kubectl("delete", "pod", name, "--wait=false")
