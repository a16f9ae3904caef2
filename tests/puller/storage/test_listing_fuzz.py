"""What a store lists may be anything: it is objects with usable names, or a fault with words."""

from __future__ import annotations

from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from puller.storage.servers import RawServer, Request, point_s3
from support.examples import examples
from trainedmodel_contract.uri import parse_uri
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.paths import path_fault
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings

KEYS = st.lists(
    st.sampled_from(["m/", "m", "a", "b/", "/", "..", ".", " ", "é", "\\", "%2F", "?", "\ud7ff"]),
    max_size=5,
).map("".join)
ENTRIES = st.lists(
    st.tuples(KEYS, st.sampled_from(["0", "1", "-1", "", "x", "99999999999999999999", "1e3"])),
    max_size=5,
)


def page(entries: list[tuple[str, str]]) -> bytes:
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>&quot;1&quot;</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        for key, size in entries
    )
    return (
        f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()
    )


@given(ENTRIES.map(page) | st.binary(max_size=80))
@settings(max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(page([("m/", "0"), ("m/1/", "0"), ("m/x", "1")]))
@example(page([("m/../../etc/passwd", "1")]))
@example(page([("m//x", "1")]))
@example(page([("m/x", "1"), ("m/x", "1")]))
@example(page([("m/x", "1"), ("m/x/", "0")]))
@example(page([("elsewhere", "1")]))
@example(b"<ListBucketResult/>")
@example(b"")
async def test_any_page_of_s3_is_a_listing_of_usable_names_or_a_fault(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    async def respond(request: Request) -> None:
        if "list-type" in request.target:
            await request.answer(200, body)
        else:
            await request.answer(404)

    async with RawServer(respond) as server:
        point_s3(monkeypatch, server)
        async with StorageRegistry(StorageSettings(answer_timeout_s=5)) as registry:
            uri = parse_uri("s3://b/m")
            try:
                listing = await registry.for_uri(uri).list(uri)
            except SourceFault:
                return
    names = [item.path for item in listing.objects]
    assert names
    assert len(set(names) | set(listing.folders)) == len(names) + len(listing.folders)
    assert not any(path_fault(path) for path in [*names, *listing.folders])
    assert all(item.size >= 0 for item in listing.objects)
    assert all(item.key == f"m/{item.path}" for item in listing.objects)
