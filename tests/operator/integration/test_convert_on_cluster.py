"""What `convert` writes, a real API server takes."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner
from support.operator.on_cluster import Cluster
from trainedmodel_operator.cli.convert_command import convert_command

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_ADDRESSES = (
    "s3://models/iris",
    "gs://models/iris",
    "pvc://claim/iris",
    "hf://org/model",
    "az://container/iris",
    "wasbs://container@account.blob.core.windows.net/iris",
    "https://account.blob.core.windows.net/container/iris",
    "https://account.blob.core.windows.net/container",
    "https://models.example.com/iris.tar.gz",
)


def documents_of_all_kinds() -> list[object]:
    """Make what users have: models at each kind of address, a Predictor, and its Secret."""
    found: list[object] = [
        {
            "apiVersion": "serving.kubeflow.org/v1alpha1",
            "kind": "TrainedModel",
            "metadata": {
                "name": f"iris-{at}",
                "labels": {"team": "a", "helm.sh/chart": "shop-1"},
                "annotations": {"note": "mine", "meta.helm.sh/release-name": "shop"},
            },
            "spec": {
                "inferenceService": "tabular",
                "model": {"storageUri": uri, "framework": "SKLearn", "memory": "1Gi"},
            },
        }
        for at, uri in enumerate(_ADDRESSES)
    ]
    found.append(
        {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "Predictor",
            "metadata": {"name": "digits"},
            "spec": {
                "modelType": {"name": "onnx"},
                "runtime": {"name": "triton-2.x"},
                "path": "onnx/digits.onnx",
                "storage": {"s3": {"secretKey": "localMinIO"}},
            },
        }
    )
    store = {"type": "s3", "access_key_id": "a", "secret_access_key": "b", "default_bucket": "m"}
    found.append(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "storage-config"},
            "stringData": {"localMinIO": json.dumps(store)},
        }
    )
    return found


def test_the_api_server_takes_everything_that_is_written(cluster: Cluster) -> None:
    documents = documents_of_all_kinds()
    result = CliRunner().invoke(
        convert_command, ["--service", "tabular"], input=yaml.safe_dump_all(documents)
    )
    assert result.exit_code == 0, result.stderr
    made = list(yaml.safe_load_all(result.stdout))
    assert len(made) == len(documents)
    words = ("-n", cluster.namespace, "apply", "--server-side", "-f", "-")
    cluster.control_plane.kubectl(*words, input=result.stdout)
    models = json.loads(cluster.kubectl("get", "trainedmodels.trainedmodel.dev", "-o", "json"))
    written = {one["metadata"]["name"]: one["spec"] for one in models["items"]}
    assert written == {
        one["metadata"]["name"]: one["spec"] for one in made if one["kind"] == "TrainedModel"
    }
