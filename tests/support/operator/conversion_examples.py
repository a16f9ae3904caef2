"""Manifests as the users of KServe and ModelMesh have them, and what becomes of one.

They have the shapes of the examples in the documentation of both projects.
"""

from __future__ import annotations

from typing import Any

import yaml
from trainedmodel_operator.core.conversion.convert import Conversion, Options, convert_all

MODEL_MESH = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: mushrooms
  namespace: modelmesh-serving
  annotations:
    serving.kserve.io/deploymentMode: ModelMesh
spec:
  predictor:
    model:
      modelFormat:
        name: xgboost
      runtime: triton-2.x
      storage:
        key: localMinIO
        path: xgboost/mushrooms
        parameters:
          bucket: example-models
"""
STORAGE_CONFIG = """\
apiVersion: v1
kind: Secret
metadata:
  name: storage-config
  namespace: modelmesh-serving
stringData:
  localMinIO: |
    {
      "type": "s3",
      "access_key_id": "AKIDEXAMPLE",
      "secret_access_key": "hush/hush",
      "endpoint_url": "http://minio.modelmesh-serving:9000",
      "default_bucket": "bucket-of-the-secret",
      "region": "us-south"
    }
"""
PREDICTOR = """\
apiVersion: serving.kserve.io/v1alpha1
kind: Predictor
metadata:
  name: digits
spec:
  modelType:
    name: tensorflow
    version: "1.15"
  runtime:
    name: triton-2.x
  path: models/digits
  schemaPath: schemas/digits.json
  storage:
    s3:
      secretKey: my_storage
      bucket: my-bucket
"""
KUBEFLOW = """\
apiVersion: "serving.kubeflow.org/v1alpha1"
kind: "TrainedModel"
metadata:
  name: "cifar10"
spec:
  inferenceService: triton-mms
  model:
    framework: pytorch
    storageUri: s3://triton/torchscript/cifar10
    memory: "1Gi"
"""


def converted(text: str, **options: Any) -> Conversion:
    """Return what became of the documents of a text, taken together."""
    found = list(convert_all(yaml.safe_load_all(text), Options(**options)))
    return Conversion(
        tuple(one for each in found for one in each.objects),
        tuple(one for each in found for one in each.notes),
        tuple(one for each in found for one in each.faults),
    )


def spec_of(text: str, **options: Any) -> Any:
    conversion = converted(text, **options)
    assert conversion.faults == ()
    (found,) = [one for one in conversion.objects if one["kind"] == "TrainedModel"]
    return found["spec"]


def fault_of(text: str, **options: Any) -> str:
    conversion = converted(text, **options)
    assert conversion.objects == ()
    (found,) = conversion.faults
    return found
