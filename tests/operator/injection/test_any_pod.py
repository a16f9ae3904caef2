"""Pods put together by chance: each is refused, or its server sees models and nothing beside."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.webhook.injection_corpus import apply_patch
from trainedmodel_contract import names
from trainedmodel_operator.core.injection.inject import inject
from trainedmodel_operator.core.injection.sidecar import VOLUME_DIR, InjectionSettings

SETTINGS = InjectionSettings(image="trainedmodel-puller:test")

_VOLUMES = ("a", "b", "c")
_SOURCES: list[dict[str, Any]] = [
    {"emptyDir": {}},
    {"emptyDir": {"medium": "Memory"}},
    {"ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
    {"persistentVolumeClaim": {"claimName": "x-tabular-0"}},
    {"persistentVolumeClaim": {"claimName": "x", "readOnly": True}},
    {"configMap": {"name": "x"}},
    {"hostPath": {"path": "/x"}},
    {},
]


@st.composite
def mounts(draw: st.DrawFn) -> dict[str, Any]:
    mount: dict[str, Any] = {
        "name": draw(st.sampled_from(_VOLUMES)),
        "mountPath": draw(
            st.sampled_from(["/mnt/models", "/mnt/models/", "/mnt", "/mnt/models/x", "/x", "/y"])
        ),
    }
    mount |= draw(
        st.sampled_from([{}, {"subPath": "models"}, {"subPath": "s/t"}, {"subPathExpr": "$(X)"}])
    )
    mount |= draw(st.sampled_from([{}, {"readOnly": True}]))
    return mount


@st.composite
def pods(draw: st.DrawFn) -> dict[str, Any]:
    def containers(prefix: str, least: int) -> list[dict[str, Any]]:
        count = draw(st.integers(least, 2))
        return [
            {
                "name": draw(st.sampled_from([f"{prefix}{number}", "kserve-container", "agent"])),
                "image": "x",
                "volumeMounts": draw(st.lists(mounts(), max_size=3)),
            }
            for number in range(count)
        ]

    metadata: dict[str, Any] = {
        "labels": {names.INJECT_LABEL: names.INJECT_VALUE, names.PARENT_LABEL: "tabular"},
        "annotations": draw(
            st.sampled_from([{}, {names.VOLUME_ANNOTATION: "exclusive"}, None]),
        ),
    }
    if draw(st.booleans()):
        metadata["name"] = "tabular-0"
        metadata["ownerReferences"] = [{"kind": "StatefulSet", "controller": True}]
    return {
        "metadata": metadata,
        "spec": {
            "initContainers": containers("init-", 0),
            "containers": containers("server-", 1),
            "volumes": [{"name": name, **draw(st.sampled_from(_SOURCES))} for name in _VOLUMES],
        },
    }


@settings(max_examples=examples(400))
@given(pods())
def test_p4_a_pod_is_refused_or_its_server_sees_the_models_and_nothing_beside(pod: Any) -> None:
    injection = inject(pod, SETTINGS)
    if injection.refusal is not None:
        assert injection.patch == ()
        return
    result = apply_patch(pod, injection.patch)
    assert inject(result, SETTINGS).patch == ()
    puller, *_ = result["spec"]["initContainers"]
    told = dict(word.split("=", 1) for word in puller["args"])
    models = told["--model-dir"].removeprefix(f"{VOLUME_DIR}/")
    state = told["--state-dir"].removeprefix(f"{VOLUME_DIR}/")
    volume = next(m["name"] for m in puller["volumeMounts"] if m["mountPath"] == VOLUME_DIR)
    source = next(one for one in result["spec"]["volumes"] if one["name"] == volume)
    assert not {"configMap", "secret"} & source.keys()
    servers = [
        mount
        for container in result["spec"]["containers"]
        for mount in container["volumeMounts"]
        if mount["name"] == volume and mount["mountPath"].rstrip("/") == "/mnt/models"
    ]
    assert models in [mount.get("subPath") for mount in servers]
    assert not f"{state}/".startswith(f"{models}/")
    assert not f"{models}/".startswith(f"{state}/")
