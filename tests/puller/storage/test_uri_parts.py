"""No part of a URI is dropped in silence: it is used, or the URI is refused with words."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from puller.storage.servers import RawServer, Request, point_s3
from puller.storage.test_download import tree
from support.examples import examples
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri, parse_uri
from trainedmodel_devkit.stores import S3Store
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.local import LocalStorage
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings
from trainedmodel_puller.storage.uri_parts import check_parts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s3://b/m.bin?versionId=abc", "query ('versionid')"),
        ("s3a://b/m?x=1&versionId=abc", "query ('versionid')"),
        ("s3://b/m.bin?X-Amz-Signature=SECRET", "write the signed link as https://"),
        ("gs://b/m?generation=1", "query ('generation')"),
        ("az://c/m?snapshot=2026", "query ('snapshot')"),
        ("az://c/m?sv=1&sig=SECRET", "AZURE_STORAGE_SAS_TOKEN"),
        ("abfs://c@a.dfs.core.windows.net/m?SECRET", "has a query after '?'"),
        ("s3://b/what?.bin", "names with a '?' in them cannot be fetched"),
        ("s3://b?prefix=m", "has a query"),
        ("hf://o/m?revision=v1", "write hf://organisation/model@revision"),
        ("pvc://claim/m?readOnly=true", "has a query"),
        ("file:///m?x", "has a query"),
        ("s3://b//lead/m", "empty path segment"),
        ("s3://b/a//m", "empty path segment"),
        ("gs://b/m//", "empty path segment"),
        ("az://c//m", "empty path segment"),
        ("hf://o/m//x", "empty path segment"),
        ("s3://b:9000/m", "not a bucket name"),
        ("s3:///m", "not a bucket name"),
        ("gs://b:9000/m", "not a bucket name"),
        ("az://c:9000/m", "must be az://container/path"),
        ("abfs://c@elsewhere.example/m", "must be abfs://container/path"),
        ("hf://o:80/m", "must be hf://organisation/model"),
        ("file://host/m", "three slashes"),
        ("pvc:///m", "must be pvc://claim/path"),
        ("http:///m", "not a valid address"),
    ],
)
async def test_a_part_of_no_use_is_refused_by_its_name(
    tmp_path: Path, text: str, words: str
) -> None:
    limits = StorageSettings(file_roots=(tmp_path,), pvc_root=tmp_path)
    async with StorageRegistry(limits) as registry, Downloader(registry) as downloader:
        with pytest.raises(SourceFault) as caught:
            await downloader.list(parse_uri(text))
    assert caught.value.reason is Reason.INVALID_URI
    assert words in caught.value.message
    assert "SECRET" not in str(caught.value)


PARTS = st.lists(
    st.sampled_from(
        [*"ab/:@?#%=&;.~ ", "//", "..", "%2F", "%20", "?versionId=1", "#1", "é", "\\", "m/", "@v1"]
    ),
    max_size=8,
).map("".join)
SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "hf", "http", "https", "file", "pvc", "wasb")


@given(st.sampled_from(SCHEMES), PARTS)
@settings(max_examples=examples(500))
@example("s3", "b/m?versionId=1")
@example("s3", "b//m")
@example("az", "c@a/m/")
@example("http", "h:1/a//b;c?d=/../e")
def test_every_part_of_every_uri_is_used_or_it_is_refused(scheme: str, rest: str) -> None:
    text = f"{scheme}://{rest}"
    try:
        uri = parse_uri(text)
        check_parts(uri)
    except (ValueError, SourceFault):
        return
    assert _used(uri) == (os.path.normpath(text) if scheme in {"file", "pvc"} else text)


def _used(uri: StorageUri) -> str:
    """Put together what back ends use of a URI: some its path and query, all others its key."""
    if uri.scheme in {"http", "https", "hf"}:  # for hf see `test_hub_names`
        return f"{uri.scheme}://{uri.authority}{uri.path}{uri.query}"
    slash = "/" if uri.key else ""
    end = "/" if uri.path.endswith("/") else ""
    text = f"{uri.scheme}://{uri.authority}{slash}{uri.key}{end}"
    return os.path.normpath(text) if uri.scheme in {"file", "pvc"} else text


@given(PARTS)
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("My Models/iris v1")
@example("a%20b/c%2Fd")
@example("a+b;c=d&e~\\f")
async def test_the_key_that_a_store_is_asked_for_is_the_one_that_is_written(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    async def respond(request: Request) -> None:
        await request.answer(404)

    try:
        uri = parse_uri(f"s3://bucket/{key}.bin")
    except ValueError:
        return
    async with RawServer(respond) as server:
        point_s3(monkeypatch, server)
        async with StorageRegistry(StorageSettings(answer_timeout_s=5)) as registry:
            with pytest.raises(SourceFault) as caught:
                await registry.for_uri(uri).list(uri)
        asked = {unquote(urlsplit(request.target).path) for request in server.requests}
        assert caught.value.reason in {Reason.INVALID_URI, Reason.OBJECT_NOT_FOUND}
        if caught.value.reason is Reason.OBJECT_NOT_FOUND:
            assert f"/bucket/{key}.bin" in asked
        else:
            assert not asked


@pytest.mark.integration
async def test_a_key_with_spaces_is_written_with_spaces_and_an_escape_says_so(
    downloader: Downloader, s3_env: S3Store, tmp_path: Path
) -> None:
    s3_env.put("spaces", "My Models/iris v1/model 1.bin", b"x")
    s3_env.put("spaces", "literal%20name/m", b"y")
    uri = parse_uri("s3://spaces/My Models/iris v1")
    await downloader.fetch(uri, await downloader.list(uri), tmp_path / "to", lambda _: None)
    assert tree(tmp_path / "to") == {"model 1.bin": b"x"}
    with pytest.raises(SourceFault) as caught:
        await downloader.list(parse_uri("s3://spaces/My%20Models/iris%20v1"))
    assert caught.value.reason is Reason.OBJECT_NOT_FOUND
    assert "'%20' is taken as written: if the name has a space, write the space" in str(
        caught.value
    )
    literal = await downloader.list(parse_uri("s3://spaces/literal%20name"))
    assert [item.path for item in literal.objects] == ["m"]


@pytest.mark.integration
async def test_what_is_pinned_or_lies_elsewhere_is_never_another_object(
    downloader: Downloader, s3_env: S3Store
) -> None:
    s3_env.put("parts", "m.bin", b"newest")
    s3_env.put("parts", "lead/m.bin", b"another")
    for text in ("s3://parts/m.bin?versionId=old", "s3://parts//lead/m.bin"):
        with pytest.raises(SourceFault) as caught:
            await downloader.list(parse_uri(text))
        assert caught.value.reason is Reason.INVALID_URI


async def test_a_folder_of_a_claim_may_have_spaces_and_slashes_to_spare(tmp_path: Path) -> None:
    folder = tmp_path / "claim" / "My Models"
    folder.mkdir(parents=True)
    (folder / "iris v1.bin").write_bytes(b"x")
    storage = LocalStorage(pvc_root=tmp_path)
    for text in ("pvc://claim/My Models", "pvc://claim//My Models/"):
        listing = await storage.list(parse_uri(text))
        assert [item.path for item in listing.objects] == ["iris v1.bin"]
