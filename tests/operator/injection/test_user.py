"""Whom the puller runs as: the server's user wherever it is written, unless it is root."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.webhook.injection_corpus import accepted, apply_patch
from trainedmodel_contract import names
from trainedmodel_operator.core.injection.inject import inject
from trainedmodel_operator.core.injection.sidecar import USER, InjectionSettings

POD = accepted()["both-labels-agree"]
#: What OpenShift's restricted-v2 makes of a pod: the user on each container, not on the pod.
OF_NAMESPACE = 1_000_680_000


def users(
    pod: Any = None,
    server: Any = None,
    *,
    annotation: str | None = None,
    setting: str = "server",
) -> tuple[int | None, int | None]:
    """Return the puller's user and group, as the kubelet would find them."""
    document = copy.deepcopy(POD)
    if pod is not None:
        document["spec"]["securityContext"] = pod
    if server is not None:
        document["spec"]["containers"][0]["securityContext"] = server
    if annotation is not None:
        document["metadata"]["annotations"] = {names.RUN_AS_USER_ANNOTATION: annotation}
    injection = inject(document, InjectionSettings(image="x", run_as_user=setting))
    assert injection.refusal is None, injection.refusal
    spec = apply_patch(document, injection.patch)["spec"]
    own, of_pod = spec["initContainers"][0]["securityContext"], spec.get("securityContext") or {}
    assert own["runAsNonRoot"] is True
    user, group = (own.get(key, of_pod.get(key)) for key in ("runAsUser", "runAsGroup"))
    return user, group


def test_the_user_of_the_servers_container_is_the_pullers_too() -> None:
    assert users({"fsGroup": OF_NAMESPACE}, {"runAsUser": OF_NAMESPACE}) == (OF_NAMESPACE, None)
    assert users(None, {"runAsUser": 1000, "runAsGroup": 0}) == (1000, 0)
    assert users({"runAsUser": 7, "runAsGroup": 8}, {"runAsUser": 1000}) == (1000, 8)


def test_the_pods_user_is_the_pullers_where_the_container_names_none() -> None:
    assert users({"runAsUser": 1000}) == (1000, None)
    assert users({"runAsUser": 1000, "runAsGroup": 5}, {"runAsUser": 0}) == (1000, 5)


def test_root_is_never_taken() -> None:
    assert users() == (USER, USER)
    assert users({"runAsUser": 0}) == (USER, USER)
    assert users({"runAsUser": 0}, {"runAsUser": 0}) == (USER, USER)


def test_a_pod_or_the_operator_may_name_another_user_or_none() -> None:
    assert users(None, {"runAsUser": 7}, annotation="2000") == (2000, None)
    assert users(None, {"runAsUser": 7}, setting="2000") == (2000, None)
    assert users(None, {"runAsUser": 7}, annotation="unset") == (None, None)
    assert users(setting="unset") == (None, None)
    assert users({"runAsUser": 7}, setting="unset") == (7, None)
    assert users(None, {"runAsUser": 7}, annotation="server", setting="unset") == (7, None)


@pytest.mark.parametrize("value", ["0", "root", "-1", "", "1e3", "2147483648", "007"])
def test_a_user_that_cannot_be_is_refused(value: str) -> None:
    document = copy.deepcopy(POD)
    document["metadata"]["annotations"] = {names.RUN_AS_USER_ANNOTATION: value}
    refusal = inject(document, InjectionSettings(image="x")).refusal
    assert refusal is not None
    assert "the numeric ID of a user that is not root" in refusal


_CONTEXTS = st.fixed_dictionaries(
    {},
    optional={
        "runAsUser": st.sampled_from([0, 1000, OF_NAMESPACE]),
        "runAsGroup": st.sampled_from([0, 1000]),
    },
)


@given(_CONTEXTS, _CONTEXTS)
def test_a_user_that_somebody_prescribed_for_the_server_is_never_left(
    pod: dict[str, int], server: dict[str, int]
) -> None:
    user, _ = users(pod, server)
    effective = server.get("runAsUser", pod.get("runAsUser"))
    if effective:
        assert user == effective
    assert user != 0
