"""What the webhook makes of the pods of the corpus, and what it refuses."""

from __future__ import annotations

import copy
import json
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.webhook.injection_corpus import accepted, apply_patch, refused
from trainedmodel_contract import names
from trainedmodel_operator.core.injection.inject import Injection, inject
from trainedmodel_operator.core.injection.sidecar import (
    SERVED_DIR,
    VOLUME_DIR,
    InjectionSettings,
)
from trainedmodel_operator.core.pods import server_memory
from trainedmodel_puller.cli.flags import with_flags

SETTINGS = InjectionSettings(image="trainedmodel-puller:test")
ACCEPTED = accepted()
REFUSED = refused()


def patched(name: str) -> Any:
    injection = inject(ACCEPTED[name], SETTINGS)
    assert injection.refusal is None
    return apply_patch(ACCEPTED[name], injection.patch)


def puller(pod: Any) -> Any:
    return next(c for c in pod["spec"]["initContainers"] if c["name"] == names.PULLER_CONTAINER)


def flags(pod: Any) -> dict[str, str]:
    return dict(word.split("=", 1) for word in puller(pod)["args"])


def mounts(container: Any) -> dict[str, Any]:
    return {mount["mountPath"].rstrip("/"): mount for mount in container["volumeMounts"]}


def served_at(pod: Any, name: str, folder: str) -> tuple[str, str]:
    """Return the volume and the folder of it that a container sees at a path."""
    container = next(c for c in pod["spec"]["containers"] if c["name"] == name)
    mount = mounts(container)[folder]
    return mount["name"], mount.get("subPath", "")


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_injected_pod_is_left_as_it_is(name: str) -> None:
    again = inject(patched(name), SETTINGS)
    assert (again.patch, again.refusal, again.reason) == ((), None, "injected_before")


@pytest.mark.parametrize("name", ACCEPTED)
def test_equal_pods_get_equal_patches_and_the_pod_that_was_read_is_unchanged(name: str) -> None:
    before = copy.deepcopy(ACCEPTED[name])
    first, second = (json.dumps(inject(copy.deepcopy(before), SETTINGS).patch) for _ in range(2))
    assert first == second
    inject(ACCEPTED[name], SETTINGS)
    assert ACCEPTED[name] == before


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_puller_comes_first_and_nothing_else_of_the_pod_changes_but_mounts(name: str) -> None:
    pod, result = ACCEPTED[name], patched(name)
    assert result["spec"]["initContainers"][0]["name"] == names.PULLER_CONTAINER
    noted = result["metadata"]["annotations"].pop(names.CONTAINER_ANNOTATION)
    assert noted in {container["name"] for container in pod["spec"]["containers"]}
    before = copy.deepcopy(pod["metadata"])
    assert before.setdefault("annotations", {}).pop(names.CONTAINER_ANNOTATION, noted) == noted
    assert result["metadata"] == before
    for kind in ("initContainers", "containers"):
        rest = [c for c in result["spec"][kind] if c["name"] != names.PULLER_CONTAINER]
        without = [{**c, "volumeMounts": None} for c in rest]
        assert without == [{**c, "volumeMounts": None} for c in pod["spec"].get(kind) or ()]
    volumes = pod["spec"].get("volumes") or []
    assert result["spec"]["volumes"][: len(volumes)] == volumes


@pytest.mark.parametrize("name", ACCEPTED)
def test_p4_the_server_sees_the_models_and_nothing_beside_them(name: str) -> None:
    result = patched(name)
    told = flags(result)
    model_dir, state_dir = told["--model-dir"], told["--state-dir"]
    whole = mounts(puller(result))[VOLUME_DIR]
    assert "subPath" not in whole
    assert not whole.get("readOnly")
    assert not f"{state_dir}/".startswith(f"{model_dir}/")
    models = model_dir.removeprefix(f"{VOLUME_DIR}/")
    shared = [
        mount
        for kind in ("initContainers", "containers")
        for container in result["spec"][kind]
        for mount in container.get("volumeMounts") or ()
        if mount["name"] == whole["name"] and container["name"] != names.PULLER_CONTAINER
    ]
    assert any(mount.get("subPath") == models for mount in shared)
    for mount in shared:
        folder = mount.get("subPath") or mount["subPathExpr"]
        assert folder == models or folder.startswith(f"{models}/")
    served = next(
        mount
        for container in result["spec"]["containers"]
        for mount in container.get("volumeMounts") or ()
        if mount["mountPath"].rstrip("/") == told["--server-model-dir"]
    )
    assert (served["name"], served["subPath"]) == (whole["name"], models)


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_puller_has_the_least_rights_whatever_the_rest_of_its_pod_has(name: str) -> None:
    security = puller(patched(name))["securityContext"]
    pods_own = (ACCEPTED[name]["spec"].get("securityContext") or {}).get("runAsUser")
    assert security.get("runAsUser", pods_own) == (pods_own or 65532)
    del security["capabilities"], security["seccompProfile"]
    assert {key: value for key, value in security.items() if not key.startswith("runAs")} == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
    }
    assert security["runAsNonRoot"] is True


@pytest.mark.parametrize("name", ACCEPTED)
def test_memory_admission_means_the_container_that_was_given_the_models(name: str) -> None:
    """Whatever small containers stand before it, and whatever other webhooks add afterwards."""
    pod = copy.deepcopy(ACCEPTED[name])
    for number, container in enumerate(pod["spec"]["containers"]):
        container["resources"] = {"limits": {"memory": f"{number + 1}Gi"}}
    result = apply_patch(pod, inject(pod, SETTINGS).patch)
    folder = flags(result)["--server-model-dir"]
    taken = result["metadata"]["annotations"][names.CONTAINER_ANNOTATION]
    assert folder in mounts(next(c for c in result["spec"]["containers"] if c["name"] == taken))
    number = [c["name"] for c in pod["spec"]["containers"]].index(taken)
    late = {"resources": {"limits": {"memory": "1Mi"}}}
    result["spec"]["containers"].insert(0, {"name": "late-proxy", **late})
    result["spec"]["containers"].append({"name": "late-exporter", **late})
    result["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] = "late-exporter"
    assert server_memory(result) == (number + 1) * 2**30


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_token_is_mounted_into_the_puller_alone(name: str) -> None:
    result = patched(name)
    holders = [
        container["name"]
        for kind in ("initContainers", "containers")
        for container in result["spec"][kind]
        for mount in container.get("volumeMounts") or ()
        if mount["name"] == "trainedmodel-account"
    ]
    assert holders == [names.PULLER_CONTAINER]
    assert result["spec"]["serviceAccountName"]


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_puller_takes_the_flags_that_are_rendered(name: str) -> None:
    taken: dict[str, Any] = {}

    @click.command()
    @with_flags
    def command(**options: Any) -> None:
        taken.update(options)

    command.main(puller(patched(name))["args"], standalone_mode=False)
    assert taken["service"] == "tabular"
    assert taken["port"] == puller(patched(name))["ports"][0]["containerPort"]
    read = {str(option.envvar) for option in command.params}
    assert {variable["name"] for variable in puller(patched(name))["env"]} <= read


def test_what_the_contract_offers_is_what_the_puller_takes() -> None:
    @click.command()
    @with_flags
    def command(**_: Any) -> None:
        pass

    choices = {
        one.opts[0]: set(one.type.choices)
        for one in command.params
        if isinstance(one.type, click.Choice)
    }
    assert choices["--server"] == set(names.SERVER_KINDS)
    assert choices["--ready-when"] == set(names.READY_WHEN)
    ports = [one.default for one in command.params if one.opts[0] == "--port"]
    assert ports == [names.PULLER_PORT]


@pytest.mark.parametrize("name", REFUSED)
def test_an_impossible_pod_is_refused_in_words_that_help(name: str) -> None:
    pod, words = REFUSED[name]
    injection = inject(pod, SETTINGS)
    assert injection.refusal is not None
    assert words in injection.refusal
    assert injection.patch == ()


def test_kserves_agent_and_initializer_go_on_where_they_are() -> None:
    agents = patched("kserve-multi-model-runtime")
    assert [c["name"] for c in agents["spec"]["containers"]] == ["kserve-container", "agent"]
    assert served_at(agents, "agent", "/mnt/models") == ("model-dir", "models")
    assert served_at(agents, "kserve-container", "/mnt/models") == ("model-dir", "models")
    assert flags(agents)["--model-dir"] == f"{VOLUME_DIR}/models"
    filled = patched("kserve-storage-uri")
    initializer = filled["spec"]["initContainers"][1]
    assert initializer["name"] == "storage-initializer"
    assert mounts(initializer)["/mnt/models"]["subPath"] == "models"
    assert served_at(filled, "kserve-container", "/mnt/models")[1] == "models"


def test_a_sub_path_of_a_volume_stays_and_the_state_lies_beside_it() -> None:
    result = patched("sub-path-of-an-ephemeral-volume")
    assert (
        result["spec"]["containers"]
        == ACCEPTED["sub-path-of-an-ephemeral-volume"]["spec"]["containers"]
    )
    assert flags(result)["--model-dir"] == f"{VOLUME_DIR}/served/models"
    assert flags(result)["--state-dir"] == f"{VOLUME_DIR}/.trainedmodel"


def test_a_pod_gets_what_its_annotations_ask_for() -> None:
    result = patched("all-annotations")
    sidecar, told = puller(result), flags(result)
    assert told["--server"] == "torchserve"
    assert told["--server-url"] == "http://127.0.0.1:7071"
    assert told["--server-model-dir"] == "/home/model-server/model-store"
    assert told["--port"] == "9999"
    assert told["--ready-when"] == "all"
    assert sidecar["image"] == "registry.example/trainedmodel-puller:1.2.3"
    assert sidecar["envFrom"] == [
        {"secretRef": {"name": "store"}},
        {"configMapRef": {"name": "puller-flags"}},
    ]
    assert sidecar["resources"] == {
        "requests": {"cpu": "100m", "memory": "256Mi"},
        "limits": {"cpu": "2", "memory": "2Gi"},
    }
    by_name = {volume["name"]: volume for volume in result["spec"]["volumes"]}
    at = mounts(sidecar)
    for profile, secret in (("minio", "minio"), ("prod", "s3.prod.example")):
        volume = by_name[at[f"{told['--credentials-dir']}/{profile}"]["name"]]
        assert volume["secret"] == {"secretName": secret, "optional": True}
    claim = by_name[at[f"{told['--pvc-root']}/shared-models"]["name"]]
    assert claim["persistentVolumeClaim"] == {"claimName": "shared-models", "readOnly": True}
    assert by_name["trainedmodel-volume"]["emptyDir"] == {"sizeLimit": "5Gi"}


def test_a_pod_that_says_little_gets_the_defaults() -> None:
    result = patched("both-labels-agree")
    told = flags(result)
    assert told["--server"] == "auto"
    assert "--server-url" not in told
    assert "--credentials-dir" not in told
    assert puller(result)["image"] == "trainedmodel-puller:test"
    sources = next(v for v in result["spec"]["volumes"] if v["name"] == "trainedmodel-config")
    assert sources["projected"]["sources"] == [
        {"configMap": {"name": f"tabular-models-{shard}", "optional": True}} for shard in range(4)
    ]


def test_what_is_doubtful_is_warned_of() -> None:
    assert inject(ACCEPTED["both-labels-agree"], SETTINGS).warnings == (
        "annotation trainedmodel.dev/sever is unknown to this operator and has no effect",
    )
    (warning,) = inject(ACCEPTED["exclusive-claim"], SETTINGS).warnings
    assert "fsGroup" in warning
    pod = copy.deepcopy(ACCEPTED["empty-dir-at-the-model-folder"])
    pod["metadata"]["annotations"] = {names.VOLUME_SIZE_ANNOTATION: "1Gi"}
    of_size, of_memory = inject(pod, SETTINGS).warnings
    assert names.VOLUME_SIZE_ANNOTATION in of_size
    assert "in memory" in of_memory


def test_a_transformer_of_kserve_is_marked_and_gets_nothing() -> None:
    pod = copy.deepcopy(ACCEPTED["kserve-custom-predictor"])
    pod["metadata"]["labels"]["component"] = "transformer"
    injection = inject(pod, SETTINGS)
    result = apply_patch(pod, injection.patch)
    assert injection.reason == "skipped"
    assert result["metadata"]["labels"][names.INJECT_LABEL] == names.INJECT_SKIPPED
    assert result["spec"] == pod["spec"]


@pytest.mark.parametrize("value", [None, "disabled", names.INJECT_SKIPPED, ""])
def test_a_pod_that_does_not_ask_is_not_touched(value: str | None) -> None:
    pod = copy.deepcopy(ACCEPTED["deployment-plain"])
    pod["metadata"]["labels"][names.INJECT_LABEL] = value
    assert inject(pod, SETTINGS) == Injection(reason="not_asked")


def test_a_puller_that_the_pods_owner_wrote_is_left_alone() -> None:
    pod = copy.deepcopy(ACCEPTED["deployment-plain"])
    pod["spec"]["containers"].append({"name": "puller", "image": "mine:1"})
    assert inject(pod, SETTINGS).patch == ()


def test_the_probes_ask_the_puller_on_its_own_port() -> None:
    for name in ("deployment-plain", "all-annotations"):
        sidecar = puller(patched(name))
        port = sidecar["ports"][0]["containerPort"]
        asked = {
            kind: sidecar[kind]["httpGet"]["path"]
            for kind in ("startupProbe", "readinessProbe", "livenessProbe")
            if kind in sidecar
        }
        assert asked == {"readinessProbe": "/readyz", "livenessProbe": "/healthz"}
        assert all(sidecar[kind]["httpGet"]["port"] == port for kind in asked)


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_models_folder_is_made_by_one_whoever_starts_first(name: str) -> None:
    result = patched(name)
    sidecar = puller(result)
    mounted = mounts(sidecar)
    shared = mounted[VOLUME_DIR]["name"]
    volume = next(one for one in result["spec"]["volumes"] if one["name"] == shared)
    waits = "startupProbe" in sidecar
    assert waits != (volume.keys() <= {"name", "emptyDir"})
    if waits:
        assert sidecar["startupProbe"]["httpGet"]["path"] == "/healthz"
        assert SERVED_DIR not in mounted
    else:
        served = mounted[SERVED_DIR]
        folder = flags(result)["--model-dir"].removeprefix(f"{VOLUME_DIR}/")
        assert (served["name"], served["subPath"], served["readOnly"]) == (shared, folder, True)
        assert not SERVED_DIR.startswith(f"{VOLUME_DIR}/")


def test_both_ways_of_making_it_are_among_the_corpus() -> None:
    assert {"startupProbe" in puller(patched(name)) for name in ACCEPTED} == {True, False}


_SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=12)
_TEXTS = st.text(max_size=40)


@given(
    annotations=st.dictionaries(
        st.sampled_from(
            [value for name, value in vars(names).items() if name.endswith("_ANNOTATION")]
        ),
        _TEXTS | st.from_regex(r"\A[a-z0-9/=,. -]{0,20}\Z"),
    ),
    service=_TEXTS,
)
def test_any_words_of_a_user_give_a_patch_or_a_refusal(
    annotations: dict[str, str], service: str
) -> None:
    pod = {
        "metadata": {
            "labels": {names.INJECT_LABEL: names.INJECT_VALUE, names.PARENT_LABEL: service},
            "annotations": annotations,
        },
        "spec": {"containers": [{"name": "server", "image": "x"}]},
    }
    injection = inject(pod, SETTINGS)
    assert (injection.refusal is None) == bool(injection.patch)
    if injection.refusal is None:
        assert inject(apply_patch(pod, injection.patch), SETTINGS).patch == ()
    else:
        assert len(injection.refusal) < 1000


@pytest.mark.parametrize(
    "pod", [{}, {"metadata": {}}, {"metadata": None, "spec": {}}, {"spec": []}]
)
def test_what_is_no_pod_is_refused(pod: Any) -> None:
    assert inject(pod, SETTINGS).refusal == "the pod has no metadata or no spec"
