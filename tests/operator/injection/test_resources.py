"""Requests and limits of a puller: several sources, one settled pair for each resource."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.webhook.injection_corpus import accepted, apply_patch
from trainedmodel_contract import names
from trainedmodel_contract.quantity import parse_bytes, parse_millicores
from trainedmodel_operator.core.injection.inject import Injection, inject
from trainedmodel_operator.core.injection.resources import (
    CPU_LIMIT,
    CPU_REQUEST,
    MEMORY_LIMIT,
    MEMORY_REQUEST,
    Resources,
    ResourcesDisagree,
    Said,
    settle,
)
from trainedmodel_operator.core.injection.sidecar import InjectionSettings

POD = accepted()["both-labels-agree"]


def asked(flags: Said | None = None, /, **annotations: str) -> Injection:
    """Inject a pod with annotations of ours (`cpu_limit` for `trainedmodel.dev/cpu-limit`)."""
    pod = copy.deepcopy(POD)
    pod["metadata"]["annotations"] = {
        f"{names.GROUP}/{key.replace('_', '-')}": value for key, value in annotations.items()
    }
    return inject(pod, InjectionSettings(image="x", resources=flags or Said()))


def given_to(injection: Injection) -> Any:
    """Return the resources of the puller that a pod gets."""
    assert injection.refusal is None, injection.refusal
    return apply_patch(POD, injection.patch)["spec"]["initContainers"][0]["resources"]


def test_a_request_above_the_built_in_limit_takes_the_limit_with_it() -> None:
    flags = Said({MEMORY_REQUEST: "2Gi"})
    assert settle(flags).memory_limit == "2Gi"
    assert given_to(asked(flags))["limits"] == {"memory": "2Gi"}
    assert asked(flags).warnings == (), "the pod's owner said nothing"


def test_a_limit_below_the_built_in_request_takes_the_request_with_it() -> None:
    injection = asked(cpu_limit="20m")
    assert given_to(injection)["requests"]["cpu"] == "20m"
    followed, slow = injection.warnings
    assert "CPU limit is only 20m" in slow
    assert followed == (
        "annotation trainedmodel.dev/cpu-limit=20m also sets the puller's cpu request to 20m"
    )


def test_what_a_pod_says_takes_what_the_operator_was_told_with_it() -> None:
    flags = Said({CPU_REQUEST: "500m", MEMORY_LIMIT: "512Mi"})
    resources = given_to(asked(flags, cpu_limit="0.25", memory_request="600Mi"))
    assert resources == {
        "requests": {"cpu": "0.25", "memory": "600Mi"},
        "limits": {"cpu": "0.25", "memory": "600Mi"},
    }


def test_annotations_that_contradict_each_other_are_refused_with_both_values() -> None:
    refusal = asked(memory_request="2Gi", memory_limit="1Gi").refusal
    assert refusal == (
        "annotation trainedmodel.dev/memory-request=2Gi is more than annotation "
        "trainedmodel.dev/memory-limit=1Gi: lower the request or raise the limit"
    )
    assert asked(cpu_request="1", cpu_limit="999m").refusal is not None
    assert asked(cpu_request="1", cpu_limit="1000m").refusal is None


def test_guaranteed_makes_requests_equal_to_limits() -> None:
    both = {"cpu": "50m", "memory": "1Gi"}
    assert given_to(asked(qos="guaranteed")) == {"requests": both, "limits": both}
    both = {"cpu": "2", "memory": "256Mi"}
    annotations = {"qos": "guaranteed", "cpu_limit": "2", "memory_request": "256Mi"}
    assert given_to(asked(**annotations)) == {"requests": both, "limits": both}


def test_a_pod_may_turn_the_operators_guaranteed_off() -> None:
    flags = Said({}, "guaranteed")
    assert settle(flags).is_guaranteed
    assert given_to(asked(flags, qos="burstable"))["limits"] == {"memory": "1Gi"}
    own = given_to(asked(flags, memory_request="1Gi", memory_limit="2Gi"))
    assert (own["requests"]["memory"], own["limits"]["memory"]) == ("1Gi", "2Gi")


def test_guaranteed_beside_two_different_values_is_refused_with_all_three() -> None:
    refusal = asked(qos="guaranteed", cpu_request="1", cpu_limit="2").refusal
    assert refusal is not None
    for words in ("qos=guaranteed", "cpu-request=1", "cpu-limit=2", "make them equal"):
        assert words in refusal


CPUS = st.sampled_from(["20m", "50m", "1", "1000m", "0.5", "2"])
SIZES = st.sampled_from(["64Mi", "128Mi", "1Gi", "1024Mi", "2G", "2Gi"])
SOURCES = st.builds(
    Said,
    st.fixed_dictionaries(
        {},
        optional={
            CPU_REQUEST: CPUS,
            CPU_LIMIT: CPUS | st.just(""),
            MEMORY_REQUEST: SIZES,
            MEMORY_LIMIT: SIZES | st.just(""),
        },
    ),
    st.sampled_from([None, "burstable", "guaranteed"]),
)


@given(SOURCES, SOURCES)
def test_no_puller_ever_asks_for_more_than_it_may_use(flags: Said, pod: Said) -> None:
    try:
        settled = settle(flags, pod)
    except ResourcesDisagree:
        assert any(contradicts(source) for source in (flags, pod))
        return
    if settled.cpu_limit:
        assert parse_millicores(settled.cpu_request) <= parse_millicores(settled.cpu_limit)
    if settled.memory_limit:
        assert parse_bytes(settled.memory_request) <= parse_bytes(settled.memory_limit)
    for field, value in pod.values.items():
        if pod.qos is None and flags.qos is None:
            assert getattr(settled, field) == value, "nothing overrides the strongest source"
    if (pod.qos or flags.qos) == "guaranteed" and not pod.values:
        assert settled.is_guaranteed


def contradicts(source: Said) -> bool:
    """Tell whether a source gives two different values, which some order or class forbids."""
    said = source.values
    return any(
        said.get(request) and said.get(limit) and said[request] != said[limit]
        for request, limit in ((CPU_REQUEST, CPU_LIMIT), (MEMORY_REQUEST, MEMORY_LIMIT))
    )


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (Resources(cpu_request="1", cpu_limit="1000m", memory_limit="1Gi"), True),
        (Resources(cpu_limit="1", memory_request="1Gi", memory_limit="1024Mi"), True),
        (Resources(cpu_request="1", memory_request="1Gi", memory_limit="1Gi"), False),
        (Resources(cpu_limit="1", memory_request="1Gi", memory_limit="2Gi"), False),
    ],
)
def test_which_resources_keep_a_pod_guaranteed(resources: Resources, expected: bool) -> None:
    assert resources.is_guaranteed is expected


# -- what the pod's owner is told -------------------------------------------------------------


def with_resources(resources: Any, *, of_pod: Any = None, **annotations: str) -> Any:
    pod = copy.deepcopy(POD)
    pod["metadata"]["annotations"] = {f"{names.GROUP}/{key}": v for key, v in annotations.items()}
    pod["spec"]["containers"][0]["resources"] = resources
    if of_pod:
        pod["spec"]["resources"] = of_pod
    return pod


GUARANTEED = {"limits": {"cpu": "2", "memory": "4Gi"}}
BOUNDED = {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}}


def warnings(pod: Any) -> str:
    injection = inject(pod, InjectionSettings(image="x"))
    assert injection.refusal is None
    assert all(len(one) < 238 for one in injection.warnings), "the API server cuts longer ones"
    return "\n".join(injection.warnings)


def test_a_pod_that_is_guaranteed_no_longer_is_warned_of() -> None:
    told = warnings(with_resources(GUARANTEED))
    assert "QoS class is Burstable, no longer Guaranteed" in told
    assert "trainedmodel.dev/qos=guaranteed keeps it" in told
    kept = with_resources(GUARANTEED, qos="guaranteed", **{"cpu-limit": "500m"})
    assert warnings(kept) == ""
    assert "QoS" not in warnings(with_resources(BOUNDED))
    assert "QoS" not in warnings(with_resources(GUARANTEED, of_pod=GUARANTEED))


def test_a_puller_that_will_be_slow_is_warned_of() -> None:
    assert "CPU limit is only 50m" in warnings(with_resources(GUARANTEED, qos="guaranteed"))
    assert "CPU limit is only 0.1" in warnings(with_resources({}, **{"cpu-limit": "0.1"}))
    assert warnings(with_resources({}, **{"cpu-limit": "200m"})) == ""


def test_a_puller_without_a_limit_that_all_others_have_is_warned_of() -> None:
    told = warnings(with_resources(BOUNDED))
    assert "ResourceQuota on limits.cpu would refuse the pod" in told
    assert "limits.memory" not in told
    assert warnings(with_resources(BOUNDED, **{"cpu-limit": "1"})) == ""
    assert warnings(with_resources({"limits": {"memory": "4Gi"}})) == ""
