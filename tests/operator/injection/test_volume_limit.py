"""The puller is told every limit that its pod puts on the model volume."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from support.webhook.injection_corpus import accepted, apply_patch
from trainedmodel_contract import names
from trainedmodel_operator.core.injection.inject import Injection, inject
from trainedmodel_operator.core.injection.sidecar import VOLUME_DIR, InjectionSettings

ACCEPTED = accepted()
GIB, MIB = 2**30, 2**20


def told(injection: Injection, pod: Any) -> int | None:
    """Return the limit that the puller is given."""
    assert injection.refusal is None, injection.refusal
    sidecar = apply_patch(pod, injection.patch)["spec"]["initContainers"][0]
    env = {one["name"]: one.get("value") for one in sidecar["env"]}
    if "TRAINEDMODEL_VOLUME_LIMIT" not in env:
        assert "TRAINEDMODEL_VOLUME_DIR" not in env
        return None
    assert env["TRAINEDMODEL_VOLUME_DIR"] == VOLUME_DIR
    return int(env["TRAINEDMODEL_VOLUME_LIMIT"])


def limit_of(pod: Any) -> int | None:
    return told(inject(pod, InjectionSettings(image="x")), pod)


def own(*limits: Any, **annotations: str) -> Any:
    """Return a pod whose volume is made; its containers have these limits."""
    pod = copy.deepcopy(ACCEPTED["both-labels-agree"])
    pod["metadata"]["annotations"] = {
        names.CONTAINER_ANNOTATION: "c0",
        **{f"{names.GROUP}/{key}": value for key, value in annotations.items()},
    }
    pod["spec"]["containers"] = [
        {"name": f"c{number}", "image": "x", "resources": {"limits": one}}
        for number, one in enumerate(limits or ({},))
    ]
    return pod


def brought(empty_dir: Any, **annotations: str) -> Any:
    """Return a pod that brings its own emptyDir."""
    pod = copy.deepcopy(ACCEPTED["empty-dir-at-the-model-folder"])
    pod["metadata"]["annotations"] = {
        f"{names.GROUP}/{key}": value for key, value in annotations.items()
    }
    pod["spec"]["volumes"][1]["emptyDir"] = empty_dir
    return pod


def test_the_size_that_a_pod_asks_for_is_the_pullers_limit() -> None:
    assert limit_of(own(**{"volume-size": "5Gi"})) == 5 * GIB
    assert limit_of(own()) is None


@pytest.mark.parametrize(
    ("empty_dir", "expected"),
    [
        ({"sizeLimit": "10Gi"}, 10 * GIB),
        ({"sizeLimit": "0"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_size_limit_of_a_volume_that_is_there_is_the_pullers(
    empty_dir: Any, expected: int | None
) -> None:
    assert limit_of(brought(empty_dir)) == expected


def test_what_is_in_memory_must_fit_into_the_pullers_own() -> None:
    """The container that writes a page of a memory volume pays for it."""
    assert limit_of(brought({"medium": "Memory", "sizeLimit": "1Gi"})) == 768 * MIB
    assert limit_of(brought({"medium": "Memory", "sizeLimit": "500Mi"})) == 500 * MIB
    roomy = brought({"medium": "Memory"}, **{"memory-limit": "9Gi"})
    assert limit_of(roomy) == 9 * GIB - 256 * MIB
    small = brought({"medium": "Memory"}, **{"memory-limit": "200Mi"})
    assert limit_of(small) == 100 * MIB
    pod = brought({"medium": "Memory", "sizeLimit": "1Gi"})
    (warning,) = inject(pod, InjectionSettings(image="x")).warnings
    assert "its memory limit of 1Gi: models may take 768Mi" in warning
    assert len(warning) < 238, "the API server cuts longer ones"


def test_the_ephemeral_storage_of_all_containers_is_a_limit_too() -> None:
    gib = {"ephemeral-storage": "10Gi"}
    assert limit_of(own(gib)) == 9 * GIB
    assert limit_of(own(gib, gib, {})) == 18 * GIB
    assert limit_of(own(gib, **{"volume-size": "5Gi"})) == 5 * GIB
    assert limit_of(own(gib, **{"volume-size": "50Gi"})) == 9 * GIB
    pod = own(gib)
    pod["spec"]["initContainers"] = [
        {"name": "sidecar", "image": "x", "restartPolicy": "Always", "resources": {"limits": gib}},
        {"name": "large", "image": "x", "resources": {"limits": {"ephemeral-storage": "40Gi"}}},
    ]
    assert limit_of(pod) == 36 * GIB
    in_memory = brought({"medium": "Memory", "sizeLimit": "500Mi"})
    in_memory["spec"]["containers"][0]["resources"] = {"limits": {"ephemeral-storage": "1Mi"}}
    assert limit_of(in_memory) == 500 * MIB


@pytest.mark.parametrize("name", ["exclusive-claim", "stateful-set"])
def test_a_volume_with_a_file_system_of_its_own_needs_no_limit(name: str) -> None:
    pod = copy.deepcopy(ACCEPTED[name])
    pod["spec"]["containers"][0]["resources"] = {"limits": {"ephemeral-storage": "1Gi"}}
    assert limit_of(pod) is None
