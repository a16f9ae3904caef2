"""A profile that was made of a Secret of KServe's or ModelMesh's lets the puller into its store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trainedmodel_contract.uri import parse_uri
from trainedmodel_devkit.stores import S3Store
from trainedmodel_operator.core.conversion.convert import Options, convert_all
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def store() -> Iterator[S3Store]:
    with S3Store() as running:
        running.put("models", "onnx/digits/model.onnx", b"bytes")
        yield running


def model_mesh(store: S3Store) -> list[Any]:
    env = store.env()
    entry = {
        "type": "s3",
        "access_key_id": env["AWS_ACCESS_KEY_ID"],
        "secret_access_key": env["AWS_SECRET_ACCESS_KEY"],
        "endpoint_url": store.endpoint,
        "default_bucket": "models",
        "region": env["AWS_REGION"],
    }
    secret = {"localMinIO": json.dumps(entry)}
    storage = {"key": "localMinIO", "path": "onnx/digits"}
    model = {"modelFormat": {"name": "onnx"}, "runtime": "triton-2.x", "storage": storage}
    return [
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {
                "name": "digits",
                "annotations": {"serving.kserve.io/deploymentMode": "ModelMesh"},
            },
            "spec": {"predictor": {"model": model}},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "storage-config"},
            "stringData": secret,
        },
    ]


def kserve(store: S3Store) -> list[Any]:
    env = store.env()
    annotations = {
        "serving.kserve.io/s3-endpoint": store.endpoint.partition("://")[2],
        "serving.kserve.io/s3-usehttps": "0",
        "serving.kserve.io/s3-region": env["AWS_REGION"],
    }
    model = {"storageUri": "s3://models/onnx/digits", "framework": "onnx", "memory": "1Gi"}
    return [
        {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "TrainedModel",
            "metadata": {
                "name": "digits",
                "annotations": {"serving.kserve.io/secret-key": "minio"},
            },
            "spec": {"inferenceService": "tabular", "model": model},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "minio", "annotations": annotations},
            "stringData": {
                "awsAccessKeyID": env["AWS_ACCESS_KEY_ID"],
                "awsSecretAccessKey": env["AWS_SECRET_ACCESS_KEY"],
            },
        },
    ]


@pytest.mark.parametrize("documents", [model_mesh, kserve])
async def test_a_converted_model_is_found_by_its_converted_profile(
    store: S3Store, tmp_path: Path, documents: Any
) -> None:
    found = list(convert_all(documents(store), Options(service="tabular")))
    made = {one["kind"]: one for each in found for one in each.objects}
    model = made["TrainedModel"]["spec"]["model"]
    folder = tmp_path / model["credentials"]
    folder.mkdir()
    for name, text in made["Secret"]["stringData"].items():
        (folder / name).write_text(text)
    async with StorageRegistry(StorageSettings(profiles_dir=tmp_path)) as registry:
        uri = parse_uri(model["storageUri"])
        listing = await registry.for_uri(uri, model["credentials"]).list(uri)
    assert [(one.path, one.size) for one in listing.objects] == [("model.onnx", 5)]
