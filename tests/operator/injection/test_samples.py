"""The KServe samples, as their pods reach the webhook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from trainedmodel_contract import names
from trainedmodel_contract.trainedmodel import parse_trained_model
from trainedmodel_operator.core.convert import Options, convert
from trainedmodel_operator.core.injection.inject import inject
from trainedmodel_operator.core.injection.puller import InjectionSettings

_SAMPLES = Path(__file__).resolve().parents[3] / "deploy" / "samples"
DOCUMENTS: list[Any] = [
    document
    for path in sorted(_SAMPLES.glob("kserve-*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
SERVICES = [one for one in DOCUMENTS if one["kind"] == "InferenceService"]


@pytest.mark.parametrize("service", SERVICES, ids=lambda one: str(one["metadata"]["name"]))
def test_the_pods_of_each_service_get_a_puller_without_a_warning(service: Any) -> None:
    """KServe hands labels and annotations down, and adds its own label."""
    metadata = service["metadata"]
    containers = service["spec"]["predictor"].get("containers") or [{"name": "kserve-container"}]
    pod = {
        "metadata": {
            "labels": {**metadata["labels"], names.PARENT_POD_LABELS[0]: metadata["name"]},
            "annotations": metadata["annotations"],
        },
        "spec": {"containers": containers},
    }
    injection = inject(pod, InjectionSettings(image="x"))
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
