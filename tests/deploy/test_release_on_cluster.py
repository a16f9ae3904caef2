"""The life of a release on a real API server: what it brings, what it changes, what it leaves."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.helm_chart import CHART, DEPLOY, ROOT, SYSTEM, Helm, by_key, container_of
from support.operator.on_cluster import Cluster
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.documents import trained_model
from trainedmodel_devkit.operatorprocess import OperatorProcess, operator_account
from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

#: Kinds of others, which this API server does not know.
FOREIGN = ("cert-manager.io/", "monitoring.coreos.com/")
RELEASE = ("trainedmodel", CHART, "-n", SYSTEM)
_numbers = itertools.count()


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane() as running:
        yield running


@pytest.fixture
def without_crds() -> Iterator[ControlPlane]:
    """Give a cluster that no release was ever on."""
    with ControlPlane() as running:
        yield running


@pytest.fixture
def release(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Helm]:
    """helm on the cluster; afterwards no release is left, and of them only the CRDs."""
    helm = Helm(tmp_path, control_plane.kubeconfig)
    yield helm
    for one in json.loads(helm("list", "--all-namespaces", "-o", "json")):
        helm("uninstall", one["name"], "-n", one["namespace"])


def namespace_of_models(control_plane: ControlPlane) -> Cluster:
    name = f"models-{next(_numbers)}"
    control_plane.kubectl("create", "namespace", name)
    return Cluster(control_plane, name)


@pytest.fixture
def cluster(control_plane: ControlPlane) -> Cluster:
    """A namespace of models."""
    return namespace_of_models(control_plane)


@contextlib.contextmanager
def operator_of_the_release(
    control_plane: ControlPlane,
    helm: Helm,
    folder: Path,
    *flags: str,
    more: Sequence[str] = (),
) -> Iterator[OperatorProcess]:
    """Run what the chart's Deployment says, as its account, with no port but what `more` says."""
    account = operator_account(control_plane)
    container = container_of(helm.render(*flags))
    said = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    arguments = [one for one in container["args"] if "-port=" not in one]
    arguments += ["--metrics-port=0", "--health-port=0"]
    arguments += ["--leader-elect", f"--lease-namespace={SYSTEM}"]  # as by itself in a pod
    arguments += more
    env = {**said, "POD_NAMESPACE": SYSTEM}
    # The end of the block gives the Lease back.
    with OperatorProcess(account, folder / "operator.log", *arguments, env=env) as operator:
        yield operator


def newer_chart(folder: Path) -> Path:
    """Write a chart whose TrainedModels have one more column."""
    chart = shutil.copytree(CHART, folder / "newer")
    file = chart / "files" / "crds" / "trainedmodels.trainedmodel.dev.yaml"
    crd = yaml.safe_load(file.read_text())
    column = {"name": "Newer", "type": "string", "jsonPath": ".metadata.uid"}
    crd["spec"]["versions"][0]["additionalPrinterColumns"].append(column)
    file.write_text(yaml.safe_dump(crd))
    return chart


def columns(control_plane: ControlPlane) -> list[str]:
    crd = get(control_plane, "crd", "trainedmodels.trainedmodel.dev")
    return [one["name"] for one in crd["spec"]["versions"][0]["additionalPrinterColumns"]]


def get(control_plane: ControlPlane, *words: str) -> Any:
    return json.loads(control_plane.kubectl("get", *words, "-o", "json"))


def authority(control_plane: ControlPlane) -> str:
    """Return the caBundle of the webhook."""
    found = get(control_plane, "mutatingwebhookconfiguration", "trainedmodel-webhook")
    [hook] = found["webhooks"]
    return str(hook["clientConfig"].get("caBundle", ""))


def write_authority(control_plane: ControlPlane) -> str:
    """Write a caBundle as the operator does; return it."""
    written = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"
    hook = {"name": "pods.trainedmodel.dev", "clientConfig": {"caBundle": written}}
    control_plane.kubectl(
        *("patch", "mutatingwebhookconfiguration", "trainedmodel-webhook", "--type=strategic"),
        *("--field-manager=trainedmodel-operator-webhook", "-p", json.dumps({"webhooks": [hook]})),
    )
    return written


@pytest.fixture
def installed(release: Helm, control_plane: ControlPlane) -> Helm:
    release("install", *RELEASE, "--create-namespace")
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    return release


def test_upgrade_rollback_and_removal_leave_models_and_shards_alone(
    installed: Helm, cluster: Cluster, tmp_path: Path
) -> None:
    control_plane = cluster.control_plane
    with operator_of_the_release(control_plane, installed, tmp_path):
        cluster.apply(trained_model("iris"), trained_model("wine"))
        wait_until(lambda: {"iris.json", "wine.json"} <= set(cluster.data()), 60)
    before = (cluster.find("cm", "tabular-models-0"), cluster.find("tmodel", "iris"))
    older = columns(control_plane)

    newer = newer_chart(tmp_path)
    installed("upgrade", "trainedmodel", newer, "-n", SYSTEM, "--set", "replicas=3")
    assert columns(control_plane) == [*older, "Newer"]
    assert get(control_plane, "deploy", "-n", SYSTEM)["items"][0]["spec"]["replicas"] == 3

    installed("rollback", "trainedmodel", "-n", SYSTEM)
    assert columns(control_plane) == older
    assert get(control_plane, "deploy", "-n", SYSTEM)["items"][0]["spec"]["replicas"] == 2

    installed("uninstall", "trainedmodel", "-n", SYSTEM)
    for kinds in (
        "deploy,svc,sa,pdb,role,rolebinding",
        "clusterrole,clusterrolebinding",
        "mutatingwebhookconfiguration,validatingadmissionpolicy,validatingadmissionpolicybinding",
    ):
        found = get(control_plane, kinds, "-A", "-l", "app.kubernetes.io/part-of=trainedmodel")
        assert found["items"] == [], kinds
    assert (cluster.find("cm", "tabular-models-0"), cluster.find("tmodel", "iris")) == before

    installed("install", *RELEASE)
    with operator_of_the_release(control_plane, installed, tmp_path):
        cluster.apply(trained_model("added"))
        wait_until(lambda: {"added.json", "iris.json", "wine.json"} <= set(cluster.data()), 60)


def left(control_plane: ControlPlane) -> set[str]:
    """Return the objects in the operator's namespace but for what Kubernetes puts into each."""
    listing = control_plane.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name")
    kinds = [one for one in listing.split() if not one.startswith("events")]
    names = control_plane.kubectl("-n", SYSTEM, "get", ",".join(kinds), "-o", "name").split()
    return set(names) - {"configmap/kube-root-ca.crt", "serviceaccount/default"}


LEFT = {"lease.coordination.k8s.io/trainedmodel-operator", "secret/trainedmodel-webhook"}


def test_what_a_removal_leaves_is_named_where_people_look_and_how_to_take_it_away(
    release: Helm, control_plane: ControlPlane, tmp_path: Path
) -> None:
    notes = release("install", *RELEASE, "--create-namespace")
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    port = f"--webhook-port={free_port()}"
    with operator_of_the_release(control_plane, release, tmp_path, more=[port]):
        wait_until(lambda: left(control_plane) >= LEFT, 60)
    release("uninstall", "trainedmodel", "-n", SYSTEM)
    wait_until(lambda: left(control_plane) == LEFT, 60)
    command = f"kubectl -n {SYSTEM} delete lease/trainedmodel-operator secret/trainedmodel-webhook"
    pages = [ROOT / "docs" / "operations.md", CHART / "README.md"]
    for text in (notes, *(page.read_text() for page in pages)):
        assert command in text
    control_plane.kubectl(*command.split()[1:])
    assert left(control_plane) == set()


def test_with_cert_manager_its_secrets_are_named(helm: Helm) -> None:
    flags = ("--set", "webhook.certificates.by=cert-manager")
    notes = helm("install", *RELEASE, "--dry-run=client", *flags)
    named = {
        one["spec"]["secretName"] for one in helm.render(*flags) if one["kind"] == "Certificate"
    }
    for secret in named:
        assert f"secret/{secret}" in notes
        assert f"secret/{secret}" in (CHART / "README.md").read_text()
    assert "secret/trainedmodel-webhook-ca" not in helm(
        "install",
        *RELEASE,
        "--dry-run=client",
        *flags,
        *("--set", "webhook.certificates.certManager.issuerRef.name=mine"),
    )


def test_the_webhooks_authority_outlives_upgrade_and_rollback(
    installed: Helm, control_plane: ControlPlane
) -> None:
    written = write_authority(control_plane)
    installed("upgrade", *RELEASE, "--set", "webhook.timeoutSeconds=7")
    found = get(control_plane, "mutatingwebhookconfiguration", "trainedmodel-webhook")
    assert found["webhooks"][0]["timeoutSeconds"] == 7
    assert authority(control_plane) == written
    installed("rollback", "trainedmodel", "-n", SYSTEM)
    assert authority(control_plane) == written


def test_crds_that_are_taken_out_of_a_release_stay(
    installed: Helm, control_plane: ControlPlane, cluster: Cluster
) -> None:
    cluster.apply(trained_model("iris"))
    installed("upgrade", *RELEASE, "--set", "crds.install=false")
    assert len(get(control_plane, "crd")["items"]) == 2
    assert cluster.find("tmodel", "iris")["metadata"].get("deletionTimestamp") is None


def test_what_kubectl_applied_is_taken_over_only_when_that_is_said(
    without_crds: ControlPlane, tmp_path: Path
) -> None:
    control_plane, release = without_crds, Helm(tmp_path, without_crds.kubeconfig)
    cluster = namespace_of_models(control_plane)
    control_plane.kubectl("apply", "-k", str(DEPLOY))
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    cluster.apply(trained_model("iris"))
    before = cluster.find("tmodel", "iris")
    written = write_authority(control_plane)
    refused = release.refusal("install", *RELEASE)
    assert "exists and cannot be imported" in refused
    release("install", *RELEASE, "--take-ownership")
    assert cluster.find("tmodel", "iris") == before
    assert authority(control_plane) == written


def test_a_release_in_each_of_two_namespaces_beside_the_cluster_s_parts(
    without_crds: ControlPlane, tmp_path: Path
) -> None:
    control_plane, release = without_crds, Helm(tmp_path, without_crds.kubeconfig)
    example = CHART / "examples" / "namespaced.yaml"
    control_plane.kubectl("apply", "-f", str(ROOT / "crds"))
    for team in ("team-a", "team-b"):
        words = ("-n", team, "--create-namespace", "-f", example)
        release("install", "models", CHART, *words, "--set", f"watch.namespaces={{{team}}}")
    for team in ("team-a", "team-b"):
        assert get(control_plane, "deploy", "-n", team)["items"]
        manifest = release("get", "manifest", "models", "-n", team)
        objects = [one for one in yaml.safe_load_all(manifest) if one]
        assert {one["metadata"].get("namespace") for one in objects} == {team}


def test_one_release_serves_the_namespaces_that_it_names_and_no_other(
    release: Helm, control_plane: ControlPlane, tmp_path: Path
) -> None:
    first, second, other = (namespace_of_models(control_plane) for _ in range(3))
    flags = ("--set", f"watch.namespaces={{{first.namespace},{second.namespace}}}")
    release("install", *RELEASE, "--create-namespace", *flags)
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    for one in (other, first, second):
        one.apply(trained_model("iris"))
    with operator_of_the_release(control_plane, release, tmp_path, *flags) as operator:
        wait_until(lambda: "iris.json" in first.data().keys() & second.data().keys(), 60)
        assert "forbidden" not in operator.log()
    assert other.data() == {}


def test_a_field_that_somebody_else_wrote_is_overwritten_only_when_that_is_said(
    installed: Helm, control_plane: ControlPlane
) -> None:
    operator = ("-n", SYSTEM, "deployment/trainedmodel-operator")
    control_plane.kubectl("scale", *operator, "--replicas=5")
    assert ".spec.replicas" in installed.refusal("upgrade", *RELEASE, "--set", "replicas=3")
    installed("upgrade", *RELEASE, "--set", "replicas=3", "--force-conflicts")
    assert get(control_plane, *operator)["spec"]["replicas"] == 3


def test_what_comes_after_an_installation_is_told(release: Helm) -> None:
    text = release("install", *RELEASE, "--create-namespace")
    assert "kubectl -n trainedmodel-system rollout status deployment/trainedmodel-operator" in text
    assert "the local ones of a development build" in text
    images = ("--set", "image.tag=0.1.0", "--set", "puller.image.tag=0.1.0")
    assert "development build" not in release("upgrade", *RELEASE, *images)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param([], id="default"),
        *(
            pytest.param(["-f", str(path)], id=path.stem)
            for path in sorted((CHART / "examples").glob("*.yaml"))
        ),
        pytest.param(["--set", "watch.namespaces={a,b}", "--set", "log.level=debug"], id="two"),
        pytest.param(["--set", "serviceAccount.name=robot,replicas=1"], id="account"),
        pytest.param(["--set", "podDisruptionBudget.maxUnavailable=50%"], id="budget"),
        pytest.param(["--set", "podDisruptionBudget.minAvailable=1"], id="least"),
        pytest.param(["--set", "hostNetwork=true,ports.metrics=19190"], id="node"),
        pytest.param(
            [
                "--set",
                "extraVolumes[0].name=a,extraVolumes[0].configMap.name=a",
                "--set",
                "extraVolumeMounts[0].name=a,extraVolumeMounts[0].mountPath=/a",
                "--set",
                "terminationGracePeriodSeconds=60,policies.otherPodChanges=Deny",
            ],
            id="volumes",
        ),
        pytest.param(
            ["--set", "extraEnv[0].name=A,extraEnv[0].value=b,extraEnvFrom[0].secretRef.name=c"],
            id="variables",
        ),
    ],
)
def test_the_api_server_takes_every_object(
    control_plane: ControlPlane, tmp_path: Path, flags: list[str]
) -> None:
    namespace = f"dry-{next(_numbers)}"
    rendered = Helm(tmp_path).render(*flags, namespace=namespace)
    known = [one for one in rendered if not one["apiVersion"].startswith(FOREIGN)]
    for needed in {namespace, *(space for _, space, _ in by_key(known) if space)}:
        namespace_object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": needed}}
        control_plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(namespace_object))
    said = control_plane.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"),
        input=yaml.safe_dump_all(known),
    )
    assert said.count("serverside-applied (server dry run)") == len(known)
    foreign = [one["apiVersion"] for one in rendered if one not in known]
    assert bool(foreign) == any("cert-manager" in flag or "production" in flag for flag in flags)


@pytest.mark.parametrize("certificates", ["operator", "cert-manager"])
def test_its_pods_are_let_into_a_restricted_namespace(
    control_plane: ControlPlane, tmp_path: Path, certificates: str
) -> None:
    rendered = Helm(tmp_path).render("--set", f"webhook.certificates.by={certificates}")
    [deployment] = [one for one in rendered if one["kind"] == "Deployment"]
    cluster = Cluster(control_plane, restricted_namespace(control_plane))
    pod = {**deployment["spec"]["template"], "apiVersion": "v1", "kind": "Pod"}
    pod["metadata"]["name"] = "operator"
    pod["spec"]["serviceAccountName"] = "default"
    apply = ("apply", "--dry-run=server", "-f", "-")
    assert cluster.refusal(*apply, documents=[pod]) == ""
    del pod["spec"]["securityContext"]["runAsNonRoot"]
    assert 'violates PodSecurity "restricted' in cluster.refusal(*apply, documents=[pod])


def restricted_namespace(control_plane: ControlPlane) -> str:
    name = f"restricted-{next(_numbers)}"
    control_plane.kubectl("create", "namespace", name)
    label = "pod-security.kubernetes.io/enforce=restricted"
    control_plane.kubectl("label", "namespace", name, label)
    return name
