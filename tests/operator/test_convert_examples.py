"""Manifests as the users of KServe and ModelMesh have them: converted, or refused in their words.

They have the shapes of the examples in the documentation of both projects.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from trainedmodel_operator.convert import convert_command
from trainedmodel_operator.core.convert import Conversion, Options, convert_all

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
    assert "spec.predictor.model.runtime: 'triton-2.x' cannot be the name of a service" in told


def test_a_runtime_that_cannot_be_a_service_is_refused_as_the_manifest_has_it() -> None:
    assert fault_of(MODEL_MESH) == (
        "InferenceService modelmesh-serving/mushrooms: spec.predictor.model.runtime: 'triton-2.x' "
        "cannot be the name of a service (lower-case letters, digits and '-'): say which service "
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


def test_labels_and_annotations_by_which_tools_track_are_not_copied() -> None:
    document = yaml.safe_load(KUBEFLOW)
    document["metadata"] |= {
        "labels": {
            "team": "vision",
            "app.kubernetes.io/part-of": "shop",
            "app.kubernetes.io/instance": "shop",
            "app.kubernetes.io/managed-by": "Helm",
            "helm.sh/chart": "shop-1.2.3",
            "argocd.argoproj.io/instance": "shop",
            "kustomize.toolkit.fluxcd.io/name": "shop",
            "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
            "applyset.kubernetes.io/part-of": "applyset-1",
        },
        "annotations": {
            "note": "mine",
            "argocd.argoproj.io/tracking-id": "shop:serving.kserve.io/TrainedModel:demo/iris",
            "argocd.argoproj.io/sync-wave": "2",
            "meta.helm.sh/release-name": "shop",
            "meta.helm.sh/release-namespace": "demo",
            "helm.sh/hook": "post-install",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "serving.kserve.io/enable-metric-aggregation": "true",
            "internal.serving.kserve.io/storage-initializer-sourceuri": "s3://x/y",
        },
    }
    conversion = converted(yaml.safe_dump(document))
    (made,) = conversion.objects
    assert made["metadata"] == {
        "name": "cifar10",
        "labels": {"team": "vision", "app.kubernetes.io/part-of": "shop"},
        "annotations": {"note": "mine"},
    }
    (note,) = conversion.notes
    assert "argocd.argoproj.io/tracking-id" in note
    assert "not copied" in note


@pytest.mark.parametrize(
    ("kind", "group"),
    [
        ("ServingRuntime", "serving.kserve.io/v1alpha1"),
        ("ClusterServingRuntime", "serving.kserve.io/v1alpha1"),
        ("InferenceGraph", "serving.kserve.io/v1alpha1"),
        ("LLMInferenceService", "serving.kserve.io/v1alpha1"),
        ("SeldonDeployment", "machinelearning.seldon.io/v1"),
        ("Model", "mlops.seldon.io/v1alpha1"),
        ("TrainedModel", "serving.example.com/v1"),
        ("InferenceService", ""),
    ],
)
def test_a_serving_kind_that_is_not_known_is_an_error_beside_what_is_converted(
    kind: str, group: str
) -> None:
    stranger = {"apiVersion": group, "kind": kind, "metadata": {"name": "x"}, "spec": {}}
    result = CliRunner().invoke(convert_command, input=f"{KUBEFLOW}---\n{yaml.safe_dump(stranger)}")
    assert result.exit_code == 1
    assert f"error: {kind} x: apiVersion {group or 'which is missing'}" in result.stderr
    assert "kind: TrainedModel" in result.stdout


def test_a_kind_that_serves_nothing_passes_with_a_note() -> None:
    others = "".join(
        f"---\napiVersion: {group}\nkind: {kind}\nmetadata: {{name: x}}\n"
        for group, kind in (
            *(("v1", "ConfigMap"), ("v1", "Namespace"), ("apps/v1", "Deployment")),
            ("serving.knative.dev/v1", "Service"),
        )
    )
    result = CliRunner().invoke(convert_command, input=KUBEFLOW + others)
    assert result.exit_code == 0
    assert result.stderr.count("left out") == 4
    assert "ConfigMap x: is nothing that can be converted: left out" in result.stderr


def test_an_input_without_a_model_is_an_error() -> None:
    for text in ("", "apiVersion: v1\nkind: List\nitems: []\n", "# nothing\n---\n---\n"):
        result = CliRunner().invoke(convert_command, input=text)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: nothing was converted")


def test_two_objects_that_become_one_name_are_an_error_and_the_first_is_kept() -> None:
    second = KUBEFLOW.replace("s3://triton", "s3://other")
    conversion = converted(f"{KUBEFLOW}---\n{second}---\n{KUBEFLOW}")
    assert [one["spec"]["model"]["storageUri"] for one in conversion.objects] == [
        "s3://triton/torchscript/cifar10"
    ]
    (fault,) = conversion.faults
    assert "becomes a TrainedModel cifar10, and so does the earlier" in fault
    assert "is there twice: written once" in " ".join(conversion.notes)


def test_two_keys_that_would_become_one_profile_are_an_error() -> None:
    other = PREDICTOR.replace("my_storage", "my-storage").replace("name: digits", "name: others")
    conversion = converted(f"{PREDICTOR}---\n{other}", service="vision")
    assert len(conversion.objects) == 1
    (fault,) = conversion.faults
    assert "its key 'my-storage' becomes the same credential profile" in fault


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"name": "My_Model"}, "metadata.name: 'My_Model'"),
        ({"generateName": "x-"}, "metadata.name is missing"),
        ({"name": "x", "namespace": "A B"}, "metadata.namespace: 'A B'"),
        ({"name": "x", "labels": {"version": 1}}, "metadata.labels[version]: 1 is not text"),
        ({"name": "x", "labels": {"a": "b c"}}, "metadata.labels[a]: 'b c' is no value"),
        ({"name": "x", "annotations": ["a"]}, "metadata.annotations must be a mapping"),
    ],
)
def test_metadata_that_the_api_server_would_refuse_is_refused_by_its_field(
    metadata: Any, words: str
) -> None:
    document = yaml.safe_load(KUBEFLOW)
    document["metadata"] = metadata
    assert words in fault_of(yaml.safe_dump(document))


def test_json_with_tabs_typed_lists_and_dates_without_quotes_are_read() -> None:
    item = yaml.safe_load(KUBEFLOW)
    del item["kind"], item["apiVersion"]
    items = yaml.safe_dump([item], indent=2).replace("\n", "\n  ")
    typed = f"apiVersion: serving.kserve.io/v1alpha1\nkind: TrainedModelList\nitems:\n  {items}"
    result = CliRunner().invoke(convert_command, input=typed)
    assert (result.exit_code, result.stderr) == (0, "")
    tabs = (
        '{\n\t"apiVersion": "serving.kserve.io/v1alpha1", "kind": "TrainedModel",\n\t"metadata": '
    )
    tabs += '{"name": "x"}, "spec": {"inferenceService": "a", "model": {"storageUri": "s3://a/b"}}}'
    assert CliRunner().invoke(convert_command, input=tabs).exit_code == 0
    dated = KUBEFLOW.replace('name: "cifar10"', "name: x\n  annotations: {since: 2021-01-02}")
    result = CliRunner().invoke(convert_command, input=dated)
    assert "since: '2021-01-02'" in result.stdout


def test_input_that_is_nested_too_deep_is_unreadable_and_deep_lists_are_read() -> None:
    result = CliRunner().invoke(convert_command, input="[" * 5000)
    assert result.exit_code == 2
    assert "nested too deep" in result.stderr
    deep: Any = yaml.safe_load(KUBEFLOW)
    for _ in range(3000):
        deep = {"kind": "List", "items": [deep]}
    (found,) = convert_all([deep], Options())
    assert len(found.objects) == 1


def test_the_flag_takes_a_service_for_each_runtime_and_refuses_what_is_no_service() -> None:
    arguments = ["--service", "triton-2.x=vision", "--service", "rest"]
    result = CliRunner().invoke(convert_command, arguments, input=MODEL_MESH)
    assert result.exit_code == 0
    assert "inferenceService: vision" in result.stdout
    for wrong in (["--service", "Triton"], ["--service", "a", "--service", "b"]):
        assert CliRunner().invoke(convert_command, wrong, input=MODEL_MESH).exit_code == 2
