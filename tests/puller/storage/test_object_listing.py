"""What is asked of an object store to find a model."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from puller.storage.servers import RawServer, Request, point_s3, s3_page
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
        body = s3_page((f"{name}/a", 1)) if is_list else b"model"
        await request.answer(200, body, ETag='"1"', Last_Modified=modified)

    async with RawServer(respond) as server:
        point_s3(monkeypatch, server)
        listing = await downloader.list(parse_uri(f"s3://b/{name}"))
    assert (requests, listing.is_single) == (asked, is_single)


@pytest.mark.parametrize("pages", [[2, 1], [2, 2], [1000], [1000, 1], [999, 1, 1], [7, 0, 7]])
async def test_a_store_may_cut_its_list_into_pages_as_it_likes(
    downloader: Downloader, monkeypatch: pytest.MonkeyPatch, pages: list[int]
) -> None:
    """A list counts as read when the store says so, not when a page was short."""

    async def respond(request: Request) -> None:
        query = parse_qs(urlsplit(request.target).query)
        number = int(query.get("continuation-token", ["0"])[0])
        keys = [(f"m/{number}-{index}", 1) for index in range(pages[number])]
        next_token = number + 1 if number + 1 < len(pages) else None
        await request.answer(200, s3_page(*keys, next_token=next_token))

    async with RawServer(respond) as server:
        point_s3(monkeypatch, server)
        listing = await downloader.list(parse_uri("s3://b/m"))
    assert len(listing.objects) == sum(pages)
