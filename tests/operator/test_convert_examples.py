"""Models as the users of KServe and ModelMesh have them: converted, or refused in their words."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from support.operator.conversion_examples import (
    KUBEFLOW,
    MODEL_MESH,
    PREDICTOR,
    STORAGE_CONFIG,
    converted,
    fault_of,
    spec_of,
)


def service_at(uri: str) -> str:
    """Return ModelMesh's example with an address in place of its storage."""
    document = yaml.safe_load(MODEL_MESH)
    del document["spec"]["predictor"]["model"]["storage"]
    document["spec"]["predictor"]["model"]["storageUri"] = uri
    return yaml.safe_dump(document)


def test_a_runtime_that_cannot_be_a_service_is_what_the_flag_says() -> None:
    expected = {
        "inferenceService": "vision",
        "model": {
            "storageUri": "s3://example-models/xgboost/mushrooms",
            "framework": "xgboost",
            "credentials": "localminio",
        },
    }
    assert spec_of(MODEL_MESH, service="vision") == expected
    assert spec_of(MODEL_MESH, services={"triton-2.x": "vision"}, service="other") == expected
    told = " ".join(converted(MODEL_MESH, service="vision").notes)
    assert "spec.predictor.model.runtime: 'triton-2.x' is not a valid service name" in told


def test_a_runtime_that_cannot_be_a_service_is_refused_as_the_manifest_has_it() -> None:
    assert fault_of(MODEL_MESH) == (
        "InferenceService modelmesh-serving/mushrooms: spec.predictor.model.runtime: 'triton-2.x' "
        "is not a valid service name (lower-case letters, digits and '-'): say which service "
        "is meant, with --service triton-2.x=NAME"
    )


def test_a_bucket_and_a_kind_of_store_are_taken_from_the_secret_beside_the_model() -> None:
    document = yaml.safe_load(MODEL_MESH)
    del document["spec"]["predictor"]["model"]["storage"]["parameters"]
    alone = yaml.safe_dump(document)
    assert "spec.predictor.model.storage.parameters.bucket is missing" in fault_of(
        alone, service="vision"
    )
    both = f"{alone}---\n{STORAGE_CONFIG}"
    uri = spec_of(both, service="vision")["model"]["storageUri"]
    assert uri == "s3://bucket-of-the-secret/xgboost/mushrooms"


def test_a_model_without_a_key_takes_the_default_entry_of_the_secret() -> None:
    document = yaml.safe_load(MODEL_MESH)
    del document["spec"]["predictor"]["model"]["storage"]["key"]
    secret = STORAGE_CONFIG.replace("localMinIO", "default")
    model = spec_of(f"{yaml.safe_dump(document)}---\n{secret}", service="vision")["model"]
    assert model["credentials"] == "default"
    assert "credentials" not in spec_of(yaml.safe_dump(document), service="vision")["model"]


@pytest.mark.parametrize("group", ["serving.kserve.io", "serving.kubeflow.org"])
def test_kserves_trained_model_is_read_in_both_groups(group: str) -> None:
    assert spec_of(KUBEFLOW.replace("serving.kubeflow.org", group)) == {
        "inferenceService": "triton-mms",
        "model": {
            "storageUri": "s3://triton/torchscript/cifar10",
            "framework": "pytorch",
            "memory": "1Gi",
        },
    }


def test_the_label_that_kserves_controller_finds_its_models_by_is_not_copied() -> None:
    document = yaml.safe_load(KUBEFLOW)
    document["metadata"]["labels"] = {"inferenceservice": "triton-mms"}
    assert "labels" not in converted(yaml.safe_dump(document)).objects[0]["metadata"]
    document["metadata"]["labels"] = {"inferenceservice": "mine", "team": "a"}
    (made,) = converted(yaml.safe_dump(document)).objects
    assert made["metadata"]["labels"] == {"inferenceservice": "mine", "team": "a"}


def test_a_trained_model_of_model_mesh_may_name_no_service_and_a_key() -> None:
    document = yaml.safe_load(KUBEFLOW)
    document["metadata"]["annotations"] = {"serving.kserve.io/secret-key": "localMinIO"}
    document["spec"]["inferenceService"] = ""
    text = yaml.safe_dump(document)
    assert "spec.inferenceService is missing" in fault_of(text)
    found = spec_of(text, service="vision")
    assert found["inferenceService"] == "vision"
    assert found["model"]["credentials"] == "localminio"


def test_a_predictor_becomes_a_trained_model() -> None:
    assert spec_of(PREDICTOR, services={"triton-2.x": "vision"}) == {
        "inferenceService": "vision",
        "model": {
            "storageUri": "s3://my-bucket/models/digits",
            "framework": "tensorflow",
            "credentials": "my-storage",
        },
    }
    told = " ".join(converted(PREDICTOR, service="vision").notes)
    for words in ("spec.modelType.version is lost", "spec.schemaPath is lost", "'my-storage'"):
        assert words in told


@pytest.mark.parametrize(
    ("storage", "uri"),
    [
        ({"key": "a", "path": "x/y", "parameters": {"bucket": "b"}}, "s3://b/x/y"),
        ({"persistentVolumeClaim": {"claimName": "claim"}, "path": "x"}, "pvc://claim/x"),
        ({"s3": {"secretKey": "a", "bucket": "b"}, "path": "x"}, "s3://b/x"),
    ],
)
def test_a_predictor_is_read_in_each_form_of_its_storage(storage: Any, uri: str) -> None:
    document = yaml.safe_load(PREDICTOR)
    del document["spec"]["path"]
    document["spec"]["storage"] = storage
    assert spec_of(yaml.safe_dump(document), service="vision")["model"]["storageUri"] == uri


def test_a_predictor_that_says_too_little_is_told_what_in_its_own_words() -> None:
    assert fault_of(PREDICTOR).startswith("Predictor digits: spec.runtime.name: 'triton-2.x'")
    no_path = PREDICTOR.replace("  path: models/digits\n", "")
    assert "Predictor digits: spec.path is missing" in fault_of(no_path, service="vision")
    no_bucket = PREDICTOR.replace("      bucket: my-bucket\n", "")
    assert "--bucket" in fault_of(no_bucket, service="vision")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("gs://bucket/models/iris", None),
        ("s3://bucket/models/iris", None),
        ("pvc://claim/models/iris", None),
        ("https://models.example.com/iris.tar.gz", None),
        ("http://models.example.com/iris.zip", None),
        ("hf://org/model", None),
        ("az://container/models/iris", None),
        ("abfs://container@account.dfs.core.windows.net/models/iris", None),
        ("abfss://container@account.dfs.core.windows.net/models/iris", None),
        ("wasb://container@account.blob.core.windows.net/models/iris", None),
        ("wasbs://container@account.blob.core.windows.net/models/iris", None),
        (
            "https://account.blob.core.windows.net/container/models/iris",
            "abfss://container@account.dfs.core.windows.net/models/iris",
        ),
        (
            "https://account.blob.core.windows.net/container/My%20Models/iris%20v1",
            "abfss://container@account.dfs.core.windows.net/My Models/iris v1",
        ),
        ("s3://bucket/My Models/iris v1", None),
        ("hf://org/model:revision", None),
        (
            "https://account.blob.core.windows.net/container/models/iris/",
            "abfss://container@account.dfs.core.windows.net/models/iris/",
        ),
        (
            "https://account.blob.core.windows.net/container/My%20Models/iris",
            "abfss://container@account.dfs.core.windows.net/My Models/iris",
        ),
        (
            "https://account.blob.core.windows.net/container",
            "abfss://container@account.dfs.core.windows.net/",
        ),
    ],
)
def test_each_address_that_kserve_reads_is_one_that_the_puller_reads(
    uri: str, expected: str | None
) -> None:
    assert spec_of(service_at(uri), service="vision")["model"]["storageUri"] == (expected or uri)
    document = yaml.safe_load(KUBEFLOW)
    document["spec"]["model"]["storageUri"] = uri
    assert spec_of(yaml.safe_dump(document))["model"]["storageUri"] == (expected or uri)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("hdfs://user/me/model", "the puller does not read HDFS"),
        ("webhdfs://user/me/model", "the puller does not read HDFS"),
        ("oci://registry/model:1", "container images"),
        ("unheard://of", "the puller does not read unheard://"),
        ("https://account.file.core.windows.net/share/iris", "Azure file shares"),
        ("https://account.z12.blob.storage.azure.net/container/iris", "AZURE_STORAGE_ENDPOINT"),
        ("https://account.blob.core.windows.net/c/iris?sig=hush", "AZURE_STORAGE_SAS_TOKEN"),
        ("https://account.blob.core.windows.net/", "names no container"),
        ("https://account.blob.core.windows.net/c/a%3Fb", "'?' or '#'"),
        ("https://account.blob.core.windows.net/c/a%FF", "not UTF-8"),
        ("/mnt/models/iris", "has no scheme"),
    ],
)
def test_an_address_that_the_puller_does_not_read_is_refused_with_what_to_do(
    uri: str, words: str
) -> None:
    found = fault_of(service_at(uri), service="vision")
    assert found.startswith("InferenceService modelmesh-serving/mushrooms: ")
    assert "spec.predictor.model.storageUri" in found
    assert words in found
    assert "hush" not in found
