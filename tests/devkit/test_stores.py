"""The stores serve over their real protocols."""

import os
from pathlib import Path

import aiohttp
import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store as ObjectStore
from trainedmodel_devkit.stores import HttpStore, S3Store


def connect(bucket: str, env: dict[str, str]) -> ObjectStore:
    return ObjectStore(
        bucket,
        endpoint=env["AWS_ENDPOINT_URL"],
        region=env["AWS_REGION"],
        access_key_id=env["AWS_ACCESS_KEY_ID"],
        secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": env["AWS_ALLOW_HTTP"] == "true"},
        retry_config={"max_retries": 0},
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "sub" / "b.txt").write_text("bb")
    return tmp_path


@pytest.mark.integration
def test_a_tree_that_was_put_is_listed_and_read(s3_store: S3Store, tree: Path) -> None:
    assert s3_store.put_tree("listed", "models/x", tree) == "s3://listed/models/x"
    store = connect("listed", s3_store.env())

    sizes = {found["path"]: found["size"] for page in obstore.list(store) for found in page}
    assert sizes == {"models/x/a.txt": 1, "models/x/sub/b.txt": 2}
    assert bytes(obstore.get(store, "models/x/sub/b.txt").bytes()) == b"bb"


@pytest.mark.integration
def test_a_deleted_prefix_is_gone_and_its_neighbour_stays(s3_store: S3Store) -> None:
    s3_store.put("pruned", "a/1", b"1")
    s3_store.put("pruned", "ab/1", b"1")

    s3_store.delete_prefix("pruned", "a")

    assert s3_store.keys("pruned") == ["ab/1"]


@pytest.mark.integration
def test_the_other_user_is_denied(s3_store: S3Store) -> None:
    s3_store.put("closed", "key", b"secret")
    store = connect("closed", s3_store.denied_env())

    with pytest.raises(BaseError, match=r"403|AccessDenied"):
        obstore.get(store, "key")


@pytest.mark.integration
def test_a_store_that_was_gone_comes_back_with_its_objects() -> None:
    with S3Store() as store:
        store.put("kept", "key", b"1")
        endpoint = store.endpoint
        store.stop()
        with pytest.raises(BaseError):
            obstore.get(connect("kept", store.env()), "key")

        store.start()

        assert store.endpoint == endpoint
        assert store.keys("kept") == ["key"]
        folder = store.folder
    assert not folder.exists()


async def test_http_serves_ranges_and_entity_tags(tree: Path) -> None:
    async with HttpStore(tree) as store, aiohttp.ClientSession() as session:
        async with session.get(store.url("sub/b.txt"), headers={"Range": "bytes=1-"}) as part:
            assert part.status == 206
            assert await part.read() == b"b"
            tag = part.headers["ETag"]
        async with session.get(store.url("sub/b.txt"), headers={"If-None-Match": tag}) as same:
            assert same.status == 304
        async with session.get(store.url("missing")) as missing:
            assert missing.status == 404
    assert store.requests[0] == ("GET", "/sub/b.txt", "bytes=1-")


@pytest.mark.integration
def test_no_credential_of_the_caller_reaches_the_store(s3_store: S3Store) -> None:
    given = s3_store.env()
    secrets = {
        given["AWS_ACCESS_KEY_ID"],
        given["AWS_SECRET_ACCESS_KEY"],
        given["AWS_ENDPOINT_URL"],
    }
    assert not secrets & set(os.environ.values())
