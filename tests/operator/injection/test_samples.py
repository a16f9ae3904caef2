"""The KServe samples, as their pods reach the webhook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from trainedmodel_contract import names
from trainedmodel_contract.quantity import parse_bytes, parse_millicores
from trainedmodel_contract.trainedmodel import parse_trained_model
from trainedmodel_operator.core.conversion.convert import Options, convert
from trainedmodel_operator.core.injection.inject import inject
from trainedmodel_operator.core.injection.sidecar import InjectionSettings

_SAMPLES = Path(__file__).resolve().parents[3] / "deploy" / "samples"
DOCUMENTS: list[Any] = [
    document
    for path in sorted(_SAMPLES.glob("kserve-*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
SERVICES = [one for one in DOCUMENTS if one["kind"] == "InferenceService"]


#: What is left of two cores and 4 GiB beside what a cluster of one node runs by itself (kind: 0.95
#: cores of requests) and beside the pod that an update replaces.
MILLICORES_LEFT, BYTES_LEFT = 1050 / 2, 3 * 2**30 / 2


def pod_of(service: Any) -> Any:
    """Return a pod of a service: KServe hands labels and annotations down, and adds its label."""
    metadata = service["metadata"]
    containers = service["spec"]["predictor"].get("containers") or [{"name": "kserve-container"}]
    return {
        "metadata": {
            "labels": {**metadata["labels"], names.PARENT_POD_LABELS[0]: metadata["name"]},
            "annotations": metadata["annotations"],
        },
        "spec": {"containers": containers},
    }


def containers(value: Any) -> Iterator[Any]:
    """Yield every object with a name in a JSON patch."""
    if isinstance(value, Mapping):
        if "name" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from containers(inner)


def resources_of(service: Any) -> Any:
    """Return what the server of a sample asks for, in the service or in the runtime it names."""
    predictor = service["spec"]["predictor"]
    if "containers" in predictor:
        return predictor["containers"][0]["resources"]
    model = predictor["model"]
    for one in DOCUMENTS:
        if one["kind"] == "ServingRuntime" and one["metadata"]["name"] == model["runtime"]:
            return one["spec"]["containers"][0]["resources"]
    return model["resources"]


@pytest.mark.parametrize("service", SERVICES, ids=lambda one: str(one["metadata"]["name"]))
def test_each_service_starts_on_the_smallest_node(service: Any) -> None:
    predictor = service["spec"]["predictor"]
    assert predictor["minReplicas"] == predictor["maxReplicas"] == 1
    patch = inject(pod_of(service), InjectionSettings(image="x")).patch
    [puller] = [one for one in containers(patch) if one.get("name") == names.PULLER_CONTAINER]
    asked = [resources_of(service)["requests"], puller["resources"]["requests"]]
    assert sum(parse_millicores(one["cpu"]) for one in asked) <= MILLICORES_LEFT
    assert sum(parse_bytes(one["memory"]) for one in asked) <= BYTES_LEFT


@pytest.mark.parametrize("service", SERVICES, ids=lambda one: str(one["metadata"]["name"]))
def test_the_pods_of_each_service_get_a_puller_without_a_warning(service: Any) -> None:
    injection = inject(pod_of(service), InjectionSettings(image="x"))
    assert (injection.refusal, injection.warnings) == (None, ())
    assert injection.patch


def test_there_is_a_sample_of_each_form_and_its_models_name_its_service() -> None:
    assert len(SERVICES) == 3
    known = {one["metadata"]["name"] for one in SERVICES}
    models = [one for one in DOCUMENTS if one["apiVersion"] == names.API_VERSION]
    assert models
    for model in models:
        assert parse_trained_model(model).spec.inference_service in known
    for service in SERVICES:
        (conversion,) = convert(service, Options())
        assert "trainedmodel.dev/server=mlserver" in conversion.notes[0]
