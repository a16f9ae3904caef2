from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
from pathlib import Path

import pytest
from puller.storage.servers import RawServer, Request
from puller.storage.test_download import tree
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_devkit.stores import S3Store
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.fsspec_options import fsspec_options
from trainedmodel_puller.storage.backends.object_clients import make_client, s3_config
from trainedmodel_puller.storage.backends.profiles import (
    Credentials,
    ambient,
    read_profile,
    translated,
    with_places,
)
from trainedmodel_puller.storage.backends.request_signing import has_metadata_service
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (
            {"S3_ENDPOINT": "minio:9000", "S3_USE_HTTPS": "0"},
            {"AWS_ENDPOINT_URL": "http://minio:9000"},
        ),
        (
            {"S3_ENDPOINT": "minio:9000", "S3_USE_HTTPS": "1"},
            {"AWS_ENDPOINT_URL": "https://minio:9000"},
        ),
        ({"S3_ENDPOINT": "minio:9000"}, {"AWS_ENDPOINT_URL": "https://minio:9000"}),
        ({"S3_ENDPOINT": "http://minio:9000/"}, {"AWS_ENDPOINT_URL": "http://minio:9000"}),
        (
            {"S3_ENDPOINT": "minio:9000", "AWS_ENDPOINT_URL": "http://other:1"},
            {"AWS_ENDPOINT_URL": "http://other:1"},
        ),
        ({"S3_VERIFY_SSL": "false"}, {"S3_VERIFY_SSL": "0"}),
        ({"S3_VERIFY_SSL": "1"}, {}),
        ({"awsAnonymousCredential": "True"}, {"AWS_SKIP_SIGNATURE": "true"}),
        ({"awsAnonymousCredential": "false"}, {}),
        ({"S3_USE_VIRTUAL_BUCKET": "true"}, {"AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true"}),
        ({"S3_USER_VIRTUAL_BUCKET": "true"}, {"AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true"}),
        ({"AZ_TENANT_ID": "b"}, {"AZURE_TENANT_ID": "b"}),
        ({"AZ_STORAGE_ACCESS_KEY": "k"}, {"AZURE_STORAGE_ACCESS_KEY": "k"}),
        ({"AZ_CLIENT_ID": "a", "AZURE_CLIENT_ID": "c"}, {"AZURE_CLIENT_ID": "c"}),
        ({"AWS_CA_BUNDLE": "/ca.pem", "AWS_REGION": ""}, {"AWS_CA_BUNDLE": "/ca.pem"}),
        ({"GOOGLE_APPLICATION_CREDENTIALS": "/g"}, {"GOOGLE_APPLICATION_CREDENTIALS": "/g"}),
    ],
)
def test_kserves_spellings_become_the_stores_own(
    said: dict[str, str], meant: dict[str, str]
) -> None:
    assert translated(said) == meant


def test_the_environment_gives_places_and_what_its_client_would_not_see() -> None:
    environ = {
        "S3_ENDPOINT": "minio:9000",
        "S3_USE_HTTPS": "0",
        "AWS_REGION": "r",
        "AWS_ACCESS_KEY_ID": "a",
        "AZ_CLIENT_SECRET": "s",
    }
    found = ambient(environ)
    assert not found.is_profile
    assert found.values == {
        "AWS_ENDPOINT_URL": "http://minio:9000",
        "AWS_REGION": "r",
        "AZURE_CLIENT_SECRET": "s",
    }
    assert "minio" not in repr(found)


def test_a_profile_takes_the_environments_place_but_never_its_keys() -> None:
    environ = {
        "AWS_ENDPOINT_URL": "http://here",
        "AWS_CA_BUNDLE": "/ca",
        "AWS_SESSION_TOKEN": "t",
        "awsAnonymousCredential": "true",
    }
    mine = Credentials({"AWS_ACCESS_KEY_ID": "a"}, is_profile=True)
    assert with_places(mine, environ).values == {
        "AWS_ENDPOINT_URL": "http://here",
        "AWS_CA_BUNDLE": "/ca",
        "AWS_ACCESS_KEY_ID": "a",
    }
    # An endpoint of its own is another store: the environment's trust is not meant for it.
    away = Credentials({"AWS_ENDPOINT_URL": "http://away"}, is_profile=True)
    assert with_places(away, environ).values == {"AWS_ENDPOINT_URL": "http://away"}


def test_a_bucket_in_the_hosts_name_is_put_there_once() -> None:
    virtual = {"AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true"}
    for endpoint in ("https://s3.example.com", "https://b.s3.example.com"):
        found = s3_config("b", {"AWS_ENDPOINT_URL": endpoint, **virtual})
        assert found["endpoint"] == "https://b.s3.example.com"
    plain = s3_config("b", {"AWS_ENDPOINT_URL": "https://s3.example.com"})
    assert plain["endpoint"] == "https://s3.example.com"
    assert "endpoint" not in s3_config("b", virtual)


def test_a_profile_holds_a_key_file_under_any_of_its_names(tmp_path: Path) -> None:
    key = json.dumps({"type": "service_account"})
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "key.json", "service-account.json"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(key)
        found = read_profile(folder)
        assert found.values == {"GOOGLE_APPLICATION_CREDENTIALS": str(folder / name)}
        (folder / name).write_text(key + " ")
        assert read_profile(folder) != found  # the path is the same, the key is another
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "GOOGLE_APPLICATION_CREDENTIALS").write_text("/elsewhere.json\n")
    assert read_profile(tmp_path / "path").values == {
        "GOOGLE_APPLICATION_CREDENTIALS": "/elsewhere.json"
    }


_KEY = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


@pytest.mark.parametrize(
    ("uri", "values"),
    [
        ("s3://b/m", _KEY),
        ("s3://b/m", {**_KEY, "AWS_SESSION_TOKEN": "t", "AWS_REGION": "eu-west-1"}),
        ("s3://b/m", {"AWS_ROLE_ARN": "arn:x", "AWS_WEB_IDENTITY_TOKEN_FILE": "/token"}),
        ("s3://b/m", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1"}),
        ("gs://b/m", {"GOOGLE_BEARER_TOKEN": "t"}),
        ("az://c/m", {"AZURE_STORAGE_ACCOUNT_NAME": "n", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}),
        ("az://c/m", {"AZURE_STORAGE_ACCOUNT_NAME": "n", "AZURE_STORAGE_SAS_TOKEN": "?sv=1&sig=x"}),
        (
            "abfs://c@account.dfs.core.windows.net/m",
            {"AZURE_CLIENT_ID": "i", "AZURE_CLIENT_SECRET": "s", "AZURE_TENANT_ID": "t"},
        ),
    ],
)
def test_each_kind_of_profile_makes_a_client(uri: str, values: dict[str, str]) -> None:
    profile = Credentials(values, is_profile=True)
    make_client(parse_uri(uri), profile, is_anonymous=False, settings=StorageSettings())


@pytest.mark.parametrize(
    ("uri", "values", "same_source_in_flight"),
    [
        ("s3://b/m", {"AWS_ROLE_ARN": "arn:x"}, "AWS_ACCESS_KEY_ID"),
        ("gs://b/m", {"GOOGLE_APPLICATION_CREDENTIALS": "/k"}, "GOOGLE_SERVICE_ACCOUNT_KEY"),
        ("az://c/m", {"AZURE_STORAGE_ACCOUNT_NAME": "n"}, "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_a_key_of_the_environment_never_stands_in_for_a_profiles_role(
    monkeypatch: pytest.MonkeyPatch, uri: str, values: dict[str, str], same_source_in_flight: str
) -> None:
    monkeypatch.setenv(same_source_in_flight, "secret")
    profile = Credentials(values, is_profile=True)
    with pytest.raises(SourceFault, match=same_source_in_flight) as caught:
        make_client(parse_uri(uri), profile, is_anonymous=False, settings=StorageSettings())
    assert caught.value.reason is Reason.ACCESS_DENIED
    assert "secret" not in str(caught.value)


def test_an_azure_uri_without_an_account_says_how_to_name_it() -> None:
    with pytest.raises(SourceFault, match="AZURE_STORAGE_ACCOUNT_NAME"):
        make_client(
            parse_uri("az://c/m"), Credentials(), is_anonymous=True, settings=StorageSettings()
        )


@pytest.mark.parametrize(
    ("scheme", "values", "wanted"),
    [
        (
            "s3",
            {**_KEY, "AWS_ENDPOINT_URL": "http://m", "AWS_REGION": "r", "S3_VERIFY_SSL": "0"},
            {
                "anon": False,
                "endpoint_url": "http://m",
                "key": "a",
                "secret": "b",
                "token": None,
                "client_kwargs": {"region_name": "r", "verify": False},
            },
        ),
        ("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "/k"}, {"token": "/k"}),
        (
            "az",
            {"AZURE_STORAGE_ACCOUNT_NAME": "n", "AZURE_STORAGE_SAS_TOKEN": "s"},
            {"account_name": "n", "sas_token": "s", "anon": False},
        ),
        ("memory", {"HF_TOKEN": "t"}, {}),
    ],
)
def test_a_profile_becomes_the_arguments_of_a_file_system(
    scheme: str, values: dict[str, str], wanted: dict[str, object]
) -> None:
    assert fsspec_options(scheme, values, is_profile=True, is_anonymous=False) == wanted


def test_a_profile_without_what_its_scheme_needs_is_denied() -> None:
    with pytest.raises(SourceFault) as caught:
        fsspec_options("s3", {}, is_profile=True, is_anonymous=False)
    assert caught.value.reason is Reason.ACCESS_DENIED


async def test_only_googles_metadata_service_counts() -> None:
    async def google(request: Request) -> None:
        assert request.headers["metadata-flavor"] == "Google"
        await request.answer(200, Metadata_Flavor="Google")

    async def another(request: Request) -> None:
        await request.answer(401)

    for respond, is_google in ((google, True), (another, False)):
        async with RawServer(respond) as server:
            assert await has_metadata_service("127.0.0.1", server.port) is is_google


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that nobody has signed, for this address, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "ca.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-addext", "basicConstraints=critical,CA:FALSE"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.mark.parametrize("backend", [frozenset[str](), frozenset({"s3"})])
async def test_a_store_with_a_certificate_of_its_own_needs_a_word(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, backend: frozenset[str]
) -> None:
    async def respond(request: Request) -> None:
        is_it = request.target.startswith("/b/m") and "list-type" not in request.target
        modified = "Thu, 01 Jan 2026 00:00:00 GMT"
        body = b"model" if is_it else b""
        await request.answer(200 if is_it else 404, body, ETag='"1"', Last_Modified=modified)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    settings = StorageSettings(fsspec_schemes=backend, answer_timeout_s=5)
    async with RawServer(respond, tls=context) as server:
        monkeypatch.setenv("S3_ENDPOINT", f"127.0.0.1:{server.port}")
        for name in _KEY:
            monkeypatch.setenv(name, "x")
        for name, value in (
            ("", ""),
            ("AWS_CA_BUNDLE", str(certificate[0])),
            ("S3_VERIFY_SSL", "0"),
        ):
            with monkeypatch.context() as patch:
                if name:
                    patch.setenv(name, value)
                async with (
                    StorageRegistry(settings) as registry,
                    Downloader(registry) as downloader,
                ):
                    if name:
                        listing = await downloader.list(parse_uri("s3://b/m"))
                        assert listing.total_bytes == 5
                        continue
                    with pytest.raises(SourceFault) as caught:
                        await downloader.list(parse_uri("s3://b/m"))
                    assert caught.value.reason is Reason.SOURCE_UNREACHABLE


@pytest.fixture
def kserve_env(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """The environment that KServe gives to its agent, and nothing else of S3."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "S3_")):
            monkeypatch.delenv(name)
    owner = s3.env()
    monkeypatch.setenv("S3_ENDPOINT", s3.endpoint.removeprefix("http://"))
    monkeypatch.setenv("S3_USE_HTTPS", "0")
    monkeypatch.setenv("S3_VERIFY_SSL", "0")
    monkeypatch.setenv("AWS_DEFAULT_REGION", owner["AWS_REGION"])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, owner[name])
    return s3


@pytest.mark.integration
class TestAsKServeSaysIt:
    @pytest.mark.parametrize("backend", [frozenset[str](), frozenset({"s3"})])
    async def test_its_environment_reaches_a_real_store(
        self, kserve_env: S3Store, tmp_path: Path, backend: frozenset[str]
    ) -> None:
        kserve_env.put("kserve", "m/x", b"1")
        settings = StorageSettings(fsspec_schemes=backend)
        uri = parse_uri("s3://kserve/m")
        async with StorageRegistry(settings) as registry, Downloader(registry) as downloader:
            await downloader.fetch(uri, await downloader.list(uri), tmp_path / "to", lambda _: None)
        assert tree(tmp_path / "to") == {"x": b"1"}

    async def test_anonymous_means_unsigned(
        self, kserve_env: S3Store, downloader: Downloader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kserve_env.put("kserve", "m/x", b"1")
        monkeypatch.setenv("awsAnonymousCredential", "true")
        with pytest.raises(SourceFault, match="not signed"):
            await downloader.list(parse_uri("s3://kserve/m"))

    async def test_its_secret_works_as_a_profile_beside_another_environment(
        self, kserve_env: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        kserve_env.put("kserve", "m/x", b"1")
        profile = tmp_path / "profiles" / "team"
        profile.mkdir(parents=True)
        for name in ("S3_ENDPOINT", "S3_USE_HTTPS", *_KEY):
            (profile / name).write_text(os.environ[name] + "\n")
        monkeypatch.setenv("S3_ENDPOINT", "127.0.0.1:1")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
        monkeypatch.setenv("awsAnonymousCredential", "true")
        settings = StorageSettings(profiles_dir=tmp_path / "profiles")
        async with StorageRegistry(settings) as registry, Downloader(registry) as downloader:
            async with asyncio.timeout(5):
                listing = await downloader.list(parse_uri("s3://kserve/m"), credentials="team")
        assert listing.total_bytes == 1

    async def test_a_ca_bundle_that_is_not_there_is_named(
        self, kserve_env: S3Store, downloader: Downloader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/ca.pem")
        with pytest.raises(SourceFault, match="AWS_CA_BUNDLE"):
            await downloader.list(parse_uri("s3://kserve/m"))
