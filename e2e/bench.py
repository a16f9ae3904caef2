"""A bench: one namespace with a store's credentials, models in the store, and what users do."""

from __future__ import annotations

import json
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from trainedmodel_contract import names
from trainedmodel_contract.conditions import find_condition, is_true
from trainedmodel_devkit.documents import trained_model
from trainedmodel_devkit.models import write_scale_mlserver
from trainedmodel_devkit.stores import S3Store
from trainedmodel_devkit.waiting import wait_until

from e2e.kubectl import Json, Kubectl
from e2e.providers import Provider
from e2e.workloads import SERVER_PORT, STORE_SECRET, Injection

BUCKET = "models"


class Bench:
    """One namespace."""

    def __init__(
        self, provider: Provider, store: S3Store, injection: Injection, namespace: str
    ) -> None:
        self.provider = provider
        self.store = store
        self.namespace = namespace
        self._injection = injection
        self._cluster = provider.kubectl
        self._cluster("create", "namespace", namespace)
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": STORE_SECRET},
            "stringData": store.env(),
        }
        self.apply(secret)

    def kubectl(self, *args: str, documents: Iterable[Json] = ()) -> str:
        """Run kubectl in the namespace."""
        return self._cluster("-n", self.namespace, *args, documents=documents)

    def get(self, kind: str, name: str) -> Json:
        """Return an object of the namespace; nothing if there is none."""
        return self._cluster.get(kind, name, "-n", self.namespace)

    def list_all(self, kind: str) -> list[Json]:
        """Return all objects of a kind in the namespace."""
        return self._cluster.list_all(kind, "-n", self.namespace)

    def cluster(self) -> Kubectl:
        """Return kubectl without a namespace."""
        return self._cluster

    def apply(self, *documents: Json) -> None:
        """Apply documents."""
        self.kubectl("apply", "-f", "-", documents=documents)

    def apply_deployment(self, deployment: Json) -> None:
        """Apply a Deployment whose pods get a puller if they ask for one."""
        self.apply(self._injection.into(deployment))

    def deploy(self, deployment: Json) -> str:
        """Apply a Deployment with a puller, wait until it has rolled out, and return its name."""
        self.apply_deployment(deployment)
        name = str(deployment["metadata"]["name"])
        self.rolled_out(name)
        return name

    def rolled_out(self, deployment: str, timeout_s: int = 120) -> None:
        """Wait until all pods of a Deployment are ready and no others are there."""
        self.kubectl("rollout", "status", f"deployment/{deployment}", f"--timeout={timeout_s}s")

    def pods(self, service: str) -> list[str]:
        """List the pods of a service that are not on their way out."""
        items = self.list_all("pods")
        return sorted(
            one["metadata"]["name"]
            for one in items
            if "deletionTimestamp" not in one["metadata"]
            and any(
                one["metadata"].get("labels", {}).get(key) == service
                for key in names.PARENT_POD_LABELS
            )
        )

    def publish(self, name: str, k: float, *, broken: bool = False) -> str:
        """Put a model that multiplies by `k` into the store and return its URI."""
        with tempfile.TemporaryDirectory() as folder:
            tree = write_scale_mlserver(Path(folder) / name, k, broken=broken)
            return self.store.put_tree(BUCKET, f"{self.namespace}/{name}-{k:g}", tree)

    def model(self, name: str, service: str, uri: str, **more: str) -> Json:
        """Describe a TrainedModel."""
        return trained_model(name, service, uri, **{"framework": "mlserver", **more})

    def status(self, name: str) -> Json:
        """Return a TrainedModel's status."""
        return dict(self.get("tmodel", name).get("status") or {})

    def is_ready(self, name: str) -> bool:
        """Say whether a TrainedModel is Ready in its present generation."""
        found = self.get("tmodel", name)
        return bool(found) and _is_ready(found)

    def wait_ready(self, *wanted: str, timeout_s: float = 60) -> None:
        """Wait until TrainedModels are Ready, all of the namespace that are named."""

        def all_ready() -> bool:
            items = self.list_all("tmodel")
            ready = {one["metadata"]["name"] for one in items if _is_ready(one)}
            return ready >= set(wanted)

        wait_until(all_ready, timeout_s, what=f"{', '.join(wanted[:5])} Ready")

    def wait_condition(self, name: str, kind: str, status: str, timeout_s: float = 60) -> Json:
        """Wait for a condition's status, and return the condition."""

        def found() -> Json:
            condition = find_condition(self.status(name), kind)
            return dict(condition) if condition.get("status") == status else {}

        return wait_until(found, timeout_s, what=f"{name} {kind}={status}")

    def predict(self, pod: str, model: str) -> float:
        """Ask a pod's server what a model makes of 1.

        Raises:
            urllib.error.HTTPError: the server refused.
        """
        with self.provider.pod_url(self.namespace, pod, SERVER_PORT) as url:
            return predict(url, model)

    def is_served(self, pod: str, model: str) -> bool:
        """Say whether a pod's server answers for a model."""
        try:
            self.predict(pod, model)
        except urllib.error.HTTPError as error:
            with error:
                return False
        except OSError:
            return False
        return True


def predict(url: str, model: str, timeout_s: float = 10) -> float:
    """Ask a server what a model makes of 1."""
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
    request = urllib.request.Request(
        f"{url}/v2/models/{model}/infer",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        return float(json.load(answer)["outputs"][0]["data"][0])


def _is_ready(found: Json) -> bool:
    status = found.get("status") or {}
    generation = found["metadata"]["generation"]
    return status.get("observedGeneration") == generation and is_true(status, "Ready")
