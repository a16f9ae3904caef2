"""What is asked of an object store to find a model."""

from __future__ import annotations

import pytest
from puller.storage.servers import RawServer, Request
from trainedmodel_contract.uri import parse_uri
from trainedmodel_puller.storage.download import Downloader


@pytest.mark.parametrize(
    ("name", "asked", "is_single"), [("m", ["list"], False), ("m.onnx", ["head"], True)]
)
async def test_of_a_store_that_has_both_the_name_tells_which_and_it_is_all_that_is_asked_for(
    downloader: Downloader,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    asked: list[str],
    is_single: bool,
) -> None:
    requests: list[str] = []

    async def respond(request: Request) -> None:
        is_list = "list-type" in request.target
        requests.append("list" if is_list else "head")
        modified = "Thu, 01 Jan 2026 00:00:00 GMT"
        row = (
            f"<Contents><Key>{name}/a</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            '<ETag>"1"</ETag><Size>1</Size></Contents>'
        )
        page = f"<ListBucketResult><IsTruncated>false</IsTruncated>{row}</ListBucketResult>"
        body = page.encode() if is_list else b"model"
        await request.answer(200, body, ETag='"1"', Last_Modified=modified)

    async with RawServer(respond) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        listing = await downloader.list(parse_uri(f"s3://b/{name}"))
    assert (requests, listing.is_single) == (asked, is_single)
