"""A pod's own token reads and writes its own report and nothing else."""

from __future__ import annotations

import json

import pytest
from trainedmodel_contract import names
from trainedmodel_devkit.waiting import wait_until

from e2e.bench import Bench
from e2e.kubectl import Json, Refused
from e2e.workloads import plain

PULLER = "trainedmodel-puller"
# Runs in the puller's container, with the token that it has.
_ASK = """
import json, os, ssl, sys, urllib.error, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount"
method, path, body = sys.argv[1:4]
host = os.environ["KUBERNETES_SERVICE_HOST"] + ":" + os.environ["KUBERNETES_SERVICE_PORT"]
headers = {"Authorization": "Bearer " + open(account + "/token").read(),
           "Content-Type": "application/json"}
request = urllib.request.Request(f"https://{host}{path}", body.encode() or None, headers,
                                 method=method)
context = ssl.create_default_context(cafile=account + "/ca.crt")
try:
    with urllib.request.urlopen(request, context=context, timeout=10) as answer:
        print(json.dumps([answer.status, answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
"""


@pytest.fixture(scope="module")
def pods(bench: Bench) -> tuple[str, str]:
    bench.deploy(plain("first", bench.provider.images.server))
    bench.deploy(plain("second", bench.provider.images.server))
    return bench.pods("first")[0], bench.pods("second")[0]


def ask(
    bench: Bench, pod: str, method: str, path: str, body: Json | None = None
) -> tuple[int, str]:
    text = "" if body is None else json.dumps(body)
    python = "/opt/trainedmodel/bin/python"
    said = bench.kubectl("exec", pod, "-c", PULLER, "--", python, "-c", _ASK, method, path, text)
    status, answer = json.loads(said)
    return int(status), str(answer)


def reports(bench: Bench, name: str = "") -> str:
    base = f"/apis/{names.API_VERSION}/namespaces/{bench.namespace}/modelreports"
    return f"{base}/{name}".rstrip("/")


_TRIED = {
    "apiVersion": "v1",
    "kind": "DeleteOptions",
    "dryRun": ["All"],
    "propagationPolicy": "Foreground",
}


def touched(report: Json) -> Json:
    """Return a report as its next write, with a label more."""
    kept = ("name", "namespace", "ownerReferences", "annotations", "resourceVersion")
    metadata = {key: report["metadata"][key] for key in kept}
    return {**report, "metadata": {**metadata, "labels": {"touched": "yes"}}}


def test_a_pod_may_read_and_write_its_own_report(bench: Bench, pods: tuple[str, str]) -> None:
    own, _ = pods
    path = reports(bench, own)
    status, answer = ask(bench, own, "DELETE", path, _TRIED)
    assert (status, json.loads(answer)["metadata"]["name"]) == (200, own)
    wait_until(
        lambda: ask(bench, own, "PUT", path, touched(bench.get("modelreport", own)))[0] == 200
    )


def test_a_pod_may_not_read_or_write_anothers_report(bench: Bench, pods: tuple[str, str]) -> None:
    own, other = pods
    path = reports(bench, other)
    assert ask(bench, own, "GET", path)[0] == 403
    for method, body in (("DELETE", _TRIED), ("PUT", touched(bench.get("modelreport", other)))):
        status, answer = ask(bench, own, method, path, body)
        assert status in (403, 409), answer
        assert status == 409 or "only the ModelReport of its own name" in answer
    assert ask(bench, own, "PATCH", path, {"metadata": {"labels": {"a": {}}}})[0] == 403
    assert "touched" not in bench.get("modelreport", other)["metadata"].get("labels", {})


def test_a_pod_may_not_delete_a_report_or_touch_a_model(
    bench: Bench, pods: tuple[str, str]
) -> None:
    own, _ = pods
    for pod in pods:
        assert ask(bench, own, "DELETE", reports(bench, pod))[0] == 403
    models = reports(bench).replace("modelreports", "trainedmodels")
    assert ask(bench, own, "POST", models, bench.model("m", "first", "s3://models/m"))[0] == 403
    assert ask(bench, own, "GET", models)[0] == 403


def test_the_server_has_no_token_of_the_pullers(bench: Bench, pods: tuple[str, str]) -> None:
    # The puller's container alone mounts the volume with its token.
    spec = bench.get("pod", pods[0])["spec"]
    holders = [
        one["name"]
        for one in (*spec.get("initContainers", ()), *spec["containers"])
        if any(mount["name"] == "trainedmodel-account" for mount in one.get("volumeMounts", ()))
    ]
    assert holders == [PULLER]
    with pytest.raises(Refused):
        bench.kubectl("exec", pods[0], "-c", "server", "--", "ls", "/etc/trainedmodel/models")
