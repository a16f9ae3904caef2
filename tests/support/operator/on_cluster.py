"""What users, pods and pullers do in a namespace of a real API server."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from trainedmodel_contract import names
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.errors import CommandFailed
from trainedmodel_devkit.operatorprocess import NAME, SYSTEM, USER
from trainedmodel_devkit.waiting import wait_until


class Cluster:
    """One namespace: what users, pods and pullers do in it."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self.control_plane = control_plane
        self.namespace = namespace
        wait_until(lambda: self.find("serviceaccount", "default"))

    def kubectl(self, *args: str, documents: Iterable[Any] = ()) -> str:
        text = yaml.safe_dump_all(list(documents)) if documents else None
        return self.control_plane.kubectl("-n", self.namespace, *args, input=text)

    def apply(self, *documents: Any) -> None:
        self.kubectl("apply", "-f", "-", documents=documents)

    def find(self, kind: str, name: str) -> Any:
        """Return an object, or None."""
        text = self.kubectl("get", kind, name, "--ignore-not-found", "-o", "json")
        return json.loads(text) if text else None

    def data(self, index: int = 0, service: str = "tabular") -> dict[str, str]:
        """Return what a shard holds; nothing if it is not there."""
        found = self.find("configmap", names.shard_name(service, index))
        return {} if found is None else found.get("data") or {}

    def status(self, name: str) -> Any:
        found = self.find("trainedmodel", name)
        return {} if found is None else found.get("status") or {}

    def statuses(self) -> dict[str, Any]:
        items = json.loads(self.kubectl("get", "trainedmodels", "-o", "json"))["items"]
        return {one["metadata"]["name"]: one.get("status") or {} for one in items}

    def run_pod(
        self, name: str, service: str = "tabular", *, labels: Mapping[str, str] | None = None
    ) -> None:
        ours = {names.INJECT_LABEL: names.INJECT_VALUE, names.PARENT_LABEL: service}
        container = {"name": "server", "image": "server"}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": {**ours, **(labels or {})}},
                "spec": {"containers": [container]},
            }
        )

    def report_document(self, pod: str, service: str = "tabular", **content: Any) -> Any:
        uid = self.find("pod", pod)["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        return {
            "apiVersion": names.API_VERSION,
            "kind": "ModelReport",
            "metadata": {"name": pod, "ownerReferences": [owner]},
            "inferenceService": service,
            "server": {"kind": "mlserver", "reachable": True},
            **content,
        }

    def report(self, pod: str, models: Any, service: str = "tabular", **content: Any) -> None:
        document = self.report_document(pod, service, models=models, **content)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", documents=[document])

    def writes(self, resource: str, subresource: str = "", *, since: int = 0) -> Counter[str]:
        """Count the operator's successful writes in this namespace, by the object's name."""
        time.sleep(0.3)  # the audit log may lag
        return Counter(
            request.name or "created"
            for request in self.control_plane.requests(
                resource=resource, subresource=subresource, since=since
            )
            if request.namespace == self.namespace
            and request.user == USER
            and request.verb in {"create", "patch", "update", "delete"}
            and request.code < 300
            and "dryRun=" not in request.uri
        )

    def patch_pod_as_operator(self, pod: str, patch: Any, account_namespace: str = SYSTEM) -> str:
        """Patch a pod with the operator's own token (kubectl would read it first, it may not)."""
        account = ("create", "token", NAME, "-n", account_namespace)
        request = urllib.request.Request(
            f"{self.control_plane.server}/api/v1/namespaces/{self.namespace}/pods/{pod}",
            json.dumps(patch).encode(),
            {
                "Authorization": f"Bearer {self.control_plane.kubectl(*account).strip()}",
                "Content-Type": "application/strategic-merge-patch+json",
            },
            method="PATCH",
        )
        context = ssl.create_default_context(cafile=str(self.control_plane.ca_file))
        try:
            urllib.request.urlopen(request, context=context, timeout=10).close()
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()
        return ""

    def refusal(self, *args: str, documents: Iterable[Any] = ()) -> str:
        """Run kubectl and return how it was refused; nothing if it was not."""
        try:
            self.kubectl(*args, documents=documents)
        except CommandFailed as error:
            return str(error)
        return ""
