"""KServe's manifests in, ours out: what comes along, what is said, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_contract.trainedmodel import parse_trained_model
from trainedmodel_operator.cli.convert_command import convert_command
from trainedmodel_operator.core.conversion.convert import Conversion, Options, convert


def one(document: Any, **options: Any) -> Conversion:
    (conversion,) = convert(document, Options(**options))
    return conversion


def trained_model(**model: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "TrainedModel",
        "metadata": {"name": "iris", "namespace": "demo"},
        "spec": {
            "inferenceService": "tabular",
            "model": {
                "storageUri": "s3://models/iris",
                "framework": "sklearn",
                "memory": "1Gi",
                **model,
            },
        },
    }


def mesh(model: dict[str, Any], **annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "mnist",
            "annotations": {"serving.kserve.io/deploymentMode": "ModelMesh", **annotations},
        },
        "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, **model}}},
    }


def made(document: Any, **options: str) -> Any:
    conversion = one(document, **options)
    assert conversion.faults == ()
    (found,) = conversion.objects
    parse_trained_model(dict(found))
    return found


def fault(document: Any, **options: str) -> str:
    conversion = one(document, **options)
    assert conversion.objects == ()
    (found,) = conversion.faults
    return found


def test_kserves_trained_model_comes_over_field_by_field() -> None:
    document = trained_model(framework="SKLearn")
    document["metadata"] |= {
        "uid": "u",
        "resourceVersion": "7",
        "labels": {"team": "a"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "n"},
    }
    document["status"] = {"conditions": []}
    assert made(document) == {
        "apiVersion": "trainedmodel.dev/v1alpha1",
        "kind": "TrainedModel",
        "metadata": {
            "name": "iris",
            "namespace": "demo",
            "labels": {"team": "a"},
            "annotations": {"note": "n"},
        },
        "spec": {
            "inferenceService": "tabular",
            "model": {"storageUri": "s3://models/iris", "framework": "sklearn", "memory": "1Gi"},
        },
    }
    assert one(document).notes == ()


def test_a_field_that_nobody_knows_is_noted() -> None:
    conversion = one(trained_model(colour="red"))
    assert conversion.notes == (
        "TrainedModel demo/iris: spec.model.colour is lost: there is no such field",
    )


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            {"storageUri": "s3://key:secret@models/iris"},
            "spec.model.storageUri: 's3://...@models/iris': storageUri must not carry user info",
        ),
        ({"storageUri": None}, "spec.model.storageUri is missing"),
        ({"memory": "much"}, "spec.model.memory: 'much'"),
        ({"framework": "sk learn"}, "spec.model.framework: 'sk learn'"),
    ],
)
def test_what_would_not_be_valid_is_a_fault_of_its_field(model: dict[str, Any], words: str) -> None:
    found = fault(trained_model(**model))
    assert found.startswith(f"TrainedModel demo/iris: {words}")
    assert "secret" not in found


def test_a_model_of_model_mesh_becomes_a_trained_model_of_its_runtime() -> None:
    document = mesh(
        {
            "runtime": "mlserver",
            "modelFormat": {"name": "SKLearn", "version": "0"},
            "storage": {
                "key": "minio",
                "path": "/sklearn/mnist.joblib",
                "schemaPath": "schema.json",
                "parameters": {"bucket": "models"},
            },
        }
    )
    conversion = one(document)
    assert made(document)["spec"] == {
        "inferenceService": "mlserver",
        "model": {
            "storageUri": "s3://models/sklearn/mnist.joblib",
            "framework": "sklearn",
            "credentials": "minio",
        },
    }
    assert "annotations" not in made(document)["metadata"]
    told = " ".join(conversion.notes)
    for words in ("'mlserver', which must be there", "profile 'minio'", "schemaPath", "version"):
        assert words in told


@pytest.mark.parametrize(
    ("storage", "uri"),
    [
        ({"path": "a/b", "parameters": {"type": "s3", "bucket": "x"}}, "s3://x/a/b"),
        ({"path": "a/b", "parameters": {"type": "gcs", "bucket": "x"}}, "gs://x/a/b"),
        ({"path": "a/b", "parameters": {"type": "pvc", "name": "claim"}}, "pvc://claim/a/b"),
        ({"path": "a/b"}, "s3://default/a/b"),
    ],
)
def test_storage_of_model_mesh_becomes_a_uri(storage: dict[str, Any], uri: str) -> None:
    found = made(mesh({"storage": storage}), service="tabular", bucket="default")
    assert found["spec"]["model"]["storageUri"] == uri


def test_the_older_forms_of_model_mesh_are_read() -> None:
    document = mesh({}, **{"serving.kserve.io/secretKey": "minio"})
    document["spec"]["predictor"] = {
        "minReplicas": 2,
        "onnx": {"storageUri": "s3://models/a.onnx", "runtime": "triton"},
    }
    assert made(document)["spec"] == {
        "inferenceService": "triton",
        "model": {
            "storageUri": "s3://models/a.onnx",
            "framework": "onnx",
            "credentials": "minio",
        },
    }
    assert "minReplicas is lost" in " ".join(one(document).notes)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ({"storageUri": "s3://a/b"}, {}, "--service"),
        ({"storage": {"path": "a"}}, {"service": "s"}, "--bucket"),
        ({"storage": {"key": "a"}}, {"service": "s", "bucket": "b"}, "storage.path"),
        ({"storage": {"path": "a", "parameters": {"type": "pvc"}}}, {"service": "s"}, "claim"),
        ({"storage": {"path": "a", "parameters": {"type": "ftp"}}}, {"service": "s"}, "'ftp'"),
        (
            {"runtime": "mlserver-1.x", "storageUri": "s3://a/b"},
            {},
            "spec.predictor.model.runtime: 'mlserver-1.x'",
        ),
    ],
)
def test_what_a_model_of_model_mesh_lacks_is_named(
    model: dict[str, Any], options: dict[str, str], words: str
) -> None:
    assert words in fault(mesh(model), **options)


def test_a_model_of_model_mesh_without_a_model_is_a_fault() -> None:
    document = mesh({})
    document["spec"] = {"predictor": {"containers": [{"name": "x"}]}}
    assert "has no model" in fault(document, service="s")


@pytest.mark.parametrize(
    ("predictor", "server"),
    [
        ({"triton": {"storageUri": "s3://a"}}, "triton"),
        ({"model": {"modelFormat": {"name": "sklearn"}, "runtime": "kserve-mlserver"}}, "mlserver"),
        ({"containers": [{"name": "kserve-container", "image": "x/tritonserver:1"}]}, "triton"),
        ({"containers": [{"image": "triton-behind-mlserver"}]}, "auto"),
        ({"containers": ["what"]}, "auto"),
        ({"containers": 7}, "auto"),
        ({}, "auto"),
    ],
)
def test_of_an_inference_service_it_is_said_what_to_label(
    predictor: dict[str, Any], server: str
) -> None:
    conversion = one(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "tabular", "namespace": "demo"},
            "spec": {"predictor": predictor, "transformer": {}},
        }
    )
    assert conversion.objects == ()
    told = " ".join(conversion.notes)
    assert "kubectl label inferenceservice tabular -n demo trainedmodel.dev/inject=enabled" in told
    assert f"trainedmodel.dev/server={server}." in told
    assert ("custom predictor" in told) == ("containers" not in predictor)
    assert "transformer's pods get no puller" in told


def test_lists_are_opened_and_strangers_are_named() -> None:
    items = [trained_model(), {"kind": "ConfigMap", "metadata": {"name": "x"}}, None, 7]
    found = list(convert({"kind": "List", "items": items}, Options()))
    assert [len(conversion.objects) for conversion in found] == [1, 0, 0]
    assert found[1].notes == ("ConfigMap x: is of a kind that cannot be converted: left out",)
    assert found[2].faults == ("a document is not a Kubernetes object: it has no kind",)


def test_what_is_ours_already_stays_as_it_is() -> None:
    ours = made(trained_model())
    conversion = one(ours)
    assert conversion.objects == (ours,)
    assert "already belongs to trainedmodel.dev" in conversion.notes[0]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("kind", "metadata", "spec", "predictor", "model", "storage", "items"),
                    *("name", "key", "path", "parameters", "storageUri", "runtime", "labels"),
                    *("modelType", "s3", "data", "stringData", "storage-config", "HF_TOKEN"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON, st.sampled_from(["TrainedModel", "InferenceService", "List"]), st.booleans())
def test_any_document_is_answered(document: Any, kind: str, is_mesh: bool) -> None:
    if isinstance(document, dict):
        document |= {"apiVersion": "serving.kserve.io/v1", "kind": kind}
        if is_mesh:
            annotations = {"serving.kserve.io/deploymentMode": "ModelMesh"}
            document["metadata"] = {"name": "x", "annotations": annotations}
    for conversion in convert(document, Options()):
        assert conversion.objects or conversion.notes or conversion.faults


@given(_JSON, st.sampled_from(["TrainedModel", "InferenceService", "Predictor", "Secret", "List"]))
def test_every_input_gives_output_or_an_error(document: Any, kind: str) -> None:
    if isinstance(document, dict):
        group = "v1" if kind in {"Secret", "List"} else "serving.kserve.io/v1"
        document |= {"apiVersion": group, "kind": kind}
    result = CliRunner().invoke(convert_command, input=json.dumps(document))
    assert isinstance(result.exception, SystemExit | None), result.exception
    is_written, is_told = bool(result.stdout), "rror: " in result.stderr
    assert is_written or is_told
    assert (result.exit_code != 0) == is_told
    for made_of_it in yaml.safe_load_all(result.stdout):
        if made_of_it["kind"] == "TrainedModel":
            parse_trained_model(made_of_it)


def test_the_command_writes_objects_to_one_stream_and_words_to_the_other(tmp_path: Path) -> None:
    bad = trained_model(storageUri="none")
    source = yaml.safe_dump_all([trained_model(), mesh({"storageUri": "s3://a/b"}), bad])
    file = tmp_path / "kserve.yaml"
    file.write_text(source)
    for arguments, text in (([str(file)], None), (["-"], source), ([], source)):
        result = CliRunner().invoke(
            convert_command, [*arguments, "--service", "tabular"], input=text
        )
        assert result.exit_code == 1
        documents = list(yaml.safe_load_all(result.stdout))
        assert [found["metadata"]["name"] for found in documents] == ["iris", "mnist"]
        assert "note: InferenceService mnist: " in result.stderr
        assert "error: TrainedModel demo/iris: " in result.stderr


def test_the_command_ends_well_with_nothing_but_notes_and_ill_with_what_is_no_yaml() -> None:
    fine = CliRunner().invoke(convert_command, input=yaml.safe_dump(trained_model()))
    assert (fine.exit_code, fine.stderr) == (0, "")
    assert CliRunner().invoke(convert_command, input="").stdout == ""
    broken = CliRunner().invoke(convert_command, input="a: [")
    assert broken.exit_code == 2
    assert "cannot be read as YAML" in broken.stderr
