"""An input as a whole: metadata, strange kinds, names that collide, forms of YAML, the flags."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from support.operator.conversion_examples import (
    KUBEFLOW,
    MODEL_MESH,
    PREDICTOR,
    converted,
    fault_of,
)
from trainedmodel_operator.cli.convert_command import convert_command
from trainedmodel_operator.core.conversion.convert import Options, convert_all


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
    assert "ConfigMap x: is of a kind that cannot be converted: left out" in result.stderr


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
    assert "appears twice: written once" in " ".join(conversion.notes)


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
        ({"name": "x", "labels": {"a": "b c"}}, "metadata.labels[a]: 'b c' is not a label value"),
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
