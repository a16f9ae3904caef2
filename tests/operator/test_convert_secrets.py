"""Secrets of KServe and ModelMesh become credential profiles; no value of theirs is ever shown."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_operator.core.conversion.convert import Conversion, Options, convert


def secret(
    name: str = "storage-config", annotations: dict[str, str] | None = None, **keys: Any
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "demo", "annotations": annotations or {}},
        "stringData": keys,
    }


def entry(**values: Any) -> dict[str, Any]:
    return secret(mine=json.dumps(values))


def one(document: Any) -> Conversion:
    (found,) = convert(document, Options())
    return found


def variables(document: Any) -> Any:
    found = one(document)
    assert found.faults == ()
    (made,) = found.objects
    assert (made["kind"], made["type"]) == ("Secret", "Opaque")
    return made["stringData"]


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_an_entry_for_s3_becomes_a_profile_with_words_how_to_use_it() -> None:
    document = entry(
        type="s3",
        access_key_id="key",
        secret_access_key="hush",
        endpoint_url="http://minio:9000",
        default_bucket="models",
        region="us-south",
    )
    found = one(document)
    assert variables(document) == {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hush",
        "AWS_ENDPOINT_URL": "http://minio:9000",
        "AWS_REGION": "us-south",
    }
    assert found.objects[0]["metadata"] == {"name": "storage-config-mine", "namespace": "demo"}
    (note,) = found.notes
    assert "trainedmodel.dev/credentials: mine=storage-config-mine" in note
    assert "spec.model.credentials" in note


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"type": "s3", "anonymous": "True"}, {"AWS_SKIP_SIGNATURE": "true"}),
        (
            {"type": "s3", "region": "x", "verify_ssl": "0"},
            {"S3_VERIFY_SSL": "0", "AWS_REGION": "x"},
        ),
        ({"type": "hf", "token": "hush"}, {"HF_TOKEN": "hush"}),
        (
            {
                "type": "azure",
                "account_name": "acc",
                "container": "c",
                "client_id": "i",
                "client_secret": "hush",
                "tenant_id": "t",
            },
            {
                "AZURE_STORAGE_ACCOUNT_NAME": "acc",
                "AZURE_CLIENT_ID": "i",
                "AZURE_CLIENT_SECRET": "hush",
                "AZURE_TENANT_ID": "t",
            },
        ),
        (
            {
                "type": "azure",
                "container": "c",
                "connection_string": "DefaultEndpointsProtocol=https;AccountName=acc;"
                "AccountKey=aHVzaA==;EndpointSuffix=core.windows.net",
            },
            {"AZURE_STORAGE_ACCOUNT_NAME": "acc", "AZURE_STORAGE_ACCOUNT_KEY": "aHVzaA=="},
        ),
        (
            {
                "type": "http",
                "url": "https://m.example:8443/a",
                "headers": {"Authorization": "Bearer x"},
            },
            {"HTTP_BEARER_TOKEN": "x", "HTTP_ORIGINS": "https://m.example:8443"},
        ),
        (
            {
                "type": "http",
                "url": "http://[::1]:80/a",
                "headers": {"authorization": [f"Basic {encoded('me:hush')}"]},
            },
            {"HTTP_USERNAME": "me", "HTTP_PASSWORD": "hush", "HTTP_ORIGINS": "http://[::1]:80"},
        ),
    ],
)
def test_an_entry_of_each_kind_becomes_the_variables_of_its_store(
    values: dict[str, Any], expected: dict[str, str]
) -> None:
    assert variables(entry(**values)) == expected


def test_an_entry_for_google_becomes_a_key_file() -> None:
    found = variables(entry(type="gcs", private_key="hush", client_email="a@b", token_uri="t"))
    key = json.loads(found["GOOGLE_APPLICATION_CREDENTIALS"])
    assert key == {
        "type": "service_account",
        "private_key": "hush",
        "private_key_id": "",
        "client_email": "a@b",
        "token_uri": "t",
    }
    whole = variables(entry(type="gs", base64_service_account=encoded(json.dumps(key))))
    assert json.loads(whole["GOOGLE_APPLICATION_CREDENTIALS"]) == key


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"type": "hdfs", "HDFS_NAMENODE": "hush"}, "does not read HDFS"),
        ({"type": "webhdfs", "HDFS_NAMENODE": "hush"}, "does not read HDFS"),
        ({"type": "ftp", "password": "hush"}, "type: 'ftp' is no store"),
        ({"password": "hush"}, "type: '' is no store"),
        ({"type": "gcs", "private_key": "hush"}, "client_email is missing"),
        ({"type": "gs", "base64_service_account": "hush!"}, "base64_service_account"),
        ({"type": "http", "url": "https://a", "headers": {"X-Key": "hush"}}, "X-Key"),
        ({"type": "http", "headers": {"Authorization": "Bearer hush"}}, "url is missing"),
        ({"type": "http", "url": "https://a", "headers": {"Authorization": "hush"}}, "neither"),
        ({"type": "http", "url": "https://a", "client_key": "hush"}, "client_key"),
    ],
)
def test_an_entry_that_cannot_be_a_profile_is_refused_by_its_key(
    values: dict[str, Any], words: str
) -> None:
    found = one(entry(**values))
    assert found.objects == ()
    (fault,) = found.faults
    assert fault.startswith("Secret demo/storage-config: mine: ")
    assert words in fault
    assert "hush" not in fault


def test_one_broken_entry_leaves_the_others_converted() -> None:
    document = secret(good=json.dumps({"type": "hf", "token": "t"}), bad="{ hush", worse=7)
    document["data"] = {"coded": encoded(json.dumps({"type": "hf", "token": "u"})), "not": "hush"}
    found = one(document)
    assert [made["metadata"]["name"] for made in found.objects] == [
        "storage-config-coded",
        "storage-config-good",
    ]
    told = " ".join(found.faults)
    for words in ("stringData[bad] is not a JSON", "stringData[worse] must be text", "data[not]"):
        assert words in told
    assert "hush" not in told


def test_two_keys_of_one_profile_are_refused() -> None:
    text = json.dumps({"type": "hf", "token": "t"})
    found = one(secret(localMinIO=text, localminio=text))
    assert len(found.objects) == 1
    assert "the same credential profile 'localminio' as the key 'localMinIO'" in found.faults[0]


@pytest.mark.parametrize("group", ["serving.kserve.io", "serving.kubeflow.org"])
def test_kserves_secret_for_s3_is_read_with_its_annotations(group: str) -> None:
    document = secret(
        "minio-secret",
        {
            f"{group}/s3-endpoint": "minio.kubeflow:9000",
            f"{group}/s3-usehttps": "0",
            f"{group}/s3-verifyssl": "0",
            f"{group}/s3-region": "us-east-2",
            f"{group}/s3-useanoncredential": "false",
            f"{group}/s3-cabundle": "/etc/ca.crt",
        },
        AWS_ACCESS_KEY_ID="key",
    )
    document["data"] = {"awsSecretAccessKey": encoded("hush")}
    assert variables(document) == {
        "S3_ENDPOINT": "minio.kubeflow:9000",
        "S3_USE_HTTPS": "0",
        "S3_VERIFY_SSL": "0",
        "AWS_REGION": "us-east-2",
        "awsAnonymousCredential": "false",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hush",
    }
    found = one(document)
    assert found.objects[0]["metadata"]["name"] == "minio-secret-profile"
    assert "trainedmodel.dev/credentials: minio-secret=minio-secret-profile" in found.notes[0]
    assert f"metadata.annotations[{group}/s3-cabundle] is lost" in found.notes[1]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {
                "AZ_CLIENT_ID": "i",
                "AZ_CLIENT_SECRET": "s",
                "AZ_TENANT_ID": "t",
                "AZ_SUBSCRIPTION_ID": "x",
            },
            {"AZURE_CLIENT_ID": "i", "AZURE_CLIENT_SECRET": "s", "AZURE_TENANT_ID": "t"},
        ),
        ({"HF_TOKEN": "t"}, {"HF_TOKEN": "t"}),
        ({"gcloud-application-credentials.json": "{}"}, {"GOOGLE_APPLICATION_CREDENTIALS": "{}"}),
        (
            {"https-host": "models.example", "headers": "Authorization: Bearer t\n"},
            {"HTTP_BEARER_TOKEN": "t", "HTTP_ORIGINS": "https://models.example"},
        ),
    ],
)
def test_kserves_other_secrets_become_profiles(keys: Any, expected: Any) -> None:
    assert variables(secret("creds", **keys)) == expected


def test_a_secret_for_hdfs_is_refused_and_a_secret_of_something_else_is_left_out() -> None:
    assert "HDFS" in one(secret("hdfscreds", HDFS_NAMENODE="https://a:1")).faults[0]
    other = one(secret("tls", None, **{"tls.crt": "x"}))
    assert (other.objects, other.faults) == ((), ())
    assert "left out" in other.notes[0]


_HUSH = "q8mZ-hush-Zm8q"


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("type", "access_key_id", "secret_access_key", "endpoint_url", "token", "url"),
                *("private_key", "client_email", "connection_string", "headers", "account_name"),
                *("base64_service_account", "client_key", "anonymous", "certificate"),
            ]
        ),
        st.sampled_from(["s3", "gcs", "azure", "http", "hf", "hdfs", _HUSH, f"Bearer {_HUSH}", ""])
        | st.dictionaries(st.sampled_from(["Authorization", "X"]), st.just(f"Basic {_HUSH}")),
    ),
    st.booleans(),
)
def test_no_value_of_a_secret_is_ever_shown(values: dict[str, Any], is_text: bool) -> None:
    text = json.dumps(values) if is_text else f"{json.dumps(values)}, {_HUSH}"
    found = one(secret(mine=text))
    told = " ".join((*found.notes, *found.faults))
    assert told
    assert values.get("type") == _HUSH or _HUSH not in told
