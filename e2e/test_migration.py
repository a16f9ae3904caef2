"""From KServe's TrainedModels to ours, by the commands of docs/migration.md, under requests.

KServe's kinds are there; its controller and its agent are stand-ins that behave like them: the
first test shows that, for a stand-in that loses nothing would prove nothing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from trainedmodel_devkit.environments import checkout
from trainedmodel_devkit.stores import S3Store
from trainedmodel_devkit.waiting import wait_until

from e2e.bench import Bench
from e2e.figures import Figure, Record
from e2e.kserve_standin import (
    KSERVE_MODELS,
    KSERVE_SERVICES,
    KServe,
    asked_in_the_cluster,
    kserve_model,
    kserve_service,
)
from e2e.kubectl import Json
from e2e.providers import Provider
from e2e.workloads import Injection

pytestmark = pytest.mark.timeout(600)

PAGE = checkout() / "docs" / "migration.md"
SECTION = "### Service by service, without a lost request"
MODELS = {f"model-{k}": float(k) for k in range(1, 6)}
#: What the page calls them.
NAMESPACE, SERVICE, SECRET = "demo", "tabular", "minio"


@pytest.fixture(scope="module")
def bench(provider: Provider, store: S3Store, injection: Injection) -> Iterator[Bench]:
    """Make the namespace that the page names."""
    bench = Bench(provider, store, injection, NAMESPACE)
    yield bench
    bench.cluster()("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def kserve(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KServe]:
    with KServe(bench, tmp_path_factory.mktemp("kserve")) as running:
        yield running


def serve_with_kserve(
    bench: Bench, kserve: KServe, service: str, prefix: str = ""
) -> dict[str, float]:
    """Bring up a service with five of KServe's models, all served; return them by name."""
    bench.apply(kserve_service(service))
    wait_until(lambda: bench.get("deployment", f"{service}-predictor"), 60, what="a Deployment")
    bench.rolled_out(f"{service}-predictor")
    models = {f"{prefix}{name}": k for name, k in MODELS.items()}
    documents = [kserve_model(name, service, kserve.publish(name, k)) for name, k in models.items()]
    bench.apply(*documents)
    (pod,) = bench.pods(service)

    def all_served() -> bool:
        # The kubelet refreshes ConfigMaps at once when an annotation of the pod changes.
        bench.kubectl("annotate", "pod", pod, f"now={time.monotonic()}", "--overwrite")
        return served(bench, pod, [*models]) == len(models)

    wait_until(all_served, 120, what="KServe's models are served", every_s=1)
    return models


def served(bench: Bench, pod: str, names: list[str]) -> int:
    return sum(bench.is_served(pod, name) for name in names)


def counts(bench: Bench, pod: str) -> Json:
    """Return what the asking pod has counted so far."""
    with (
        bench.provider.pod_url(bench.namespace, pod, 8000) as url,
        urllib.request.urlopen(url, timeout=10) as answer,
    ):
        return dict(json.load(answer))


def counts_after_more(bench: Bench, pod: str) -> Json:
    """Return what it has counted after a hundred more answers."""
    answered = counts(bench, pod)["answered"]
    wait_until(lambda: counts(bench, pod)["answered"] > answered + 100, 60, what="answers")
    return counts(bench, pod)


def section() -> str:
    text = PAGE.read_text(encoding="utf-8").partition(SECTION)[2]
    return re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0]


def blocks(language: str) -> list[str]:
    """Return the section's blocks of a language, without the list's indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", section(), re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def patch_of_the_page(bench: Bench) -> str:
    """Return the page's patch, with the image that this cluster has."""
    (text,) = blocks("yaml")
    patch = yaml.safe_load(text)
    (container,) = patch["spec"]["predictor"]["containers"]
    container["image"] = bench.provider.images.server
    container["imagePullPolicy"] = "IfNotPresent"
    return yaml.safe_dump(patch)


def run(bench: Bench, folder: Path, script: str) -> None:
    """Run commands as the page has them, each of which must end well."""
    kubectl = bench.cluster()
    programs = [str(kubectl.program.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": ":".join(programs)}
    if kubectl.kubeconfig is not None:
        environment["KUBECONFIG"] = str(kubectl.kubeconfig)
    result = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def secret_of_kserve(bench: Bench) -> Json:
    """Describe the Secret that KServe's service account has."""
    env, group = bench.store.env(), "serving.kserve.io"
    annotations = {
        f"{group}/s3-endpoint": env["AWS_ENDPOINT_URL"].partition("://")[2],
        f"{group}/s3-usehttps": "0",
        f"{group}/s3-region": env["AWS_REGION"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "annotations": annotations},
        "stringData": {key: env[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")},
    }


def replace_pods(bench: Bench, deployment: str) -> None:
    """Replace the pods of a Deployment, and wait until the old ones are gone."""
    (before,) = bench.pods(SERVICE)
    bench.kubectl("rollout", "restart", f"deployment/{deployment}")
    bench.rolled_out(deployment)
    wait_until(lambda: not bench.get("pod", before), 120, what="the old pod is gone")


def failed_for_the_model(bench: Bench, pod: str) -> list[str]:
    """Return the failures that are an answer of a server: a retry would not help there."""
    return [one for one in counts(bench, pod)["failures"] if ": status 4" in one]


def test_the_stand_in_loses_what_kserve_loses(bench: Bench, kserve: KServe) -> None:
    models = serve_with_kserve(bench, kserve, "labelled", "old-")
    with asked_in_the_cluster(bench, "labelled", models) as traffic:
        wait_until(lambda: counts(bench, traffic)["answered"] > 20, 60, what="answers")
        assert counts(bench, traffic)["failures"] == []
        (before,) = bench.pods("labelled")
        bench.kubectl("annotate", KSERVE_SERVICES, "labelled", "any=change")
        wait_until(lambda: before not in bench.pods("labelled"), 120, what="the pod is replaced")
        bench.rolled_out("labelled-predictor")
        (pod,) = bench.pods("labelled")
        wait_until(lambda: failed_for_the_model(bench, traffic), 60, what="requests fail")
        assert served(bench, pod, [*models]) == 0
    bench.kubectl("delete", KSERVE_MODELS, *models)
    bench.kubectl("delete", KSERVE_SERVICES, "labelled")
    bench.kubectl("delete", "deployment", "labelled-predictor", "--wait=false")


def test_the_commands_of_the_page_lose_no_request(
    bench: Bench, kserve: KServe, tmp_path: Path, record: Record
) -> None:
    bench.apply(secret_of_kserve(bench))
    models = serve_with_kserve(bench, kserve, SERVICE)
    (tmp_path / "custom-predictor.yaml").write_text(patch_of_the_page(bench))
    with asked_in_the_cluster(bench, SERVICE, models) as traffic:
        wait_until(lambda: counts(bench, traffic)["answered"] > 20, 60, what="answers")
        run(bench, tmp_path, "\n".join(blocks("sh")))
        migrated = counts_after_more(bench, traffic)
        replace_pods(bench, f"{SERVICE}-predictor")
        replaced = counts_after_more(bench, traffic)
    record(Figure("requests lost in a migration", [len(migrated["failures"])], "requests"))
    record(Figure("requests answered meanwhile", [migrated["answered"]], "requests"))
    for how in ("refused", "reset"):
        what = f"connections {how} and tried again"
        record(Figure(f"{what} in a migration", [migrated[how]], "connections"))
        later = replaced[how] - migrated[how]
        record(Figure(f"{what} when the new pod is replaced", [later], "connections"))
    assert replaced["failures"] == [], (
        "no answer may be an error or wrong, and a connection that a stopping pod refuses or "
        f"closes before it answers must get its answer within two seconds: {replaced}"
    )
    assert bench.list_all(KSERVE_MODELS) == []
    (pod,) = bench.pods(SERVICE)
    containers = bench.get("pod", pod)["spec"]["containers"]
    assert [one["name"] for one in containers] == ["kserve-container"]
    assert {name: bench.predict(pod, name) for name in models} == MODELS
