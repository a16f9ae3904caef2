"""How much a store may list: entries and bytes of names are limited, whatever the store."""

from __future__ import annotations

import asyncio
import itertools
import resource
import time
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from puller.storage.servers import RawServer, Request, point_s3, s3_page
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.base import Listing
from trainedmodel_puller.storage.listing import ListingCount
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings

MIB = 2**20


def endless(page_keys: int = 1000) -> RawServer:
    """An S3 server whose listing has no end; a million keys and ten million look the same."""
    numbers = itertools.count()

    async def respond(request: Request) -> None:
        page = next(numbers)
        keys = [(f"m/{page * page_keys + each:08d}/weights", 1) for each in range(page_keys)]
        await request.answer(200, s3_page(*keys, next_token=page + 1))

    return RawServer(respond)


async def refusal(registry: StorageRegistry, uri: str) -> SourceFault:
    with pytest.raises(SourceFault) as caught:
        await registry.for_uri(parse_uri(uri)).list(parse_uri(uri))
    return caught.value


async def longest_hold(during: asyncio.Task[object]) -> float:
    """Return for how long the event loop was held at most, until a task is done."""
    longest, last = 0.0, time.monotonic()
    while not during.done():
        await asyncio.sleep(0.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest


async def test_a_bucket_without_end_is_refused_in_words_with_flat_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    async with endless() as server, StorageRegistry(StorageSettings()) as registry:
        point_s3(monkeypatch, server)
        refused = asyncio.create_task(refusal(registry, "s3://b/m"))
        held = await longest_hold(refused)
    fault = refused.result()
    assert fault.reason is Reason.LISTING_TOO_LARGE
    assert fault.message == (
        "s3://b/m: has more than 100,000 objects: let the URI name the folder of one model, "
        "or raise --max-listing of the puller"
    )
    assert len(server.requests) <= 110  # pages that were asked for, a few ahead
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before < 150
    assert held < 1


async def test_the_flag_raises_and_lowers_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async with endless(10) as server, StorageRegistry(StorageSettings(max_listing=25)) as registry:
        point_s3(monkeypatch, server)
        fault = await refusal(registry, "s3://b/m")
    assert "more than 25 objects" in fault.message


async def test_a_long_listing_within_the_limit_does_not_hold_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages = [[(f"m/{page}/{each:04d}", 1) for each in range(1000)] for page in range(30)]
    served = itertools.count()

    async def respond(request: Request) -> None:
        page = next(served)
        token = page + 1 if page + 1 < len(pages) else None
        await request.answer(200, s3_page(*pages[page], next_token=token))

    async with RawServer(respond) as server, StorageRegistry(StorageSettings()) as registry:
        point_s3(monkeypatch, server)
        uri = parse_uri("s3://b/m")
        listed: asyncio.Task[Listing] = asyncio.create_task(registry.for_uri(uri).list(uri))
        held = await longest_hold(listed)
    assert len(listed.result().objects) == 30_000
    assert held < 0.5


async def test_a_folder_with_too_many_files_is_refused(roots: Path) -> None:
    for number in range(30):
        (roots / f"{number}").write_bytes(b"x")
    settings = StorageSettings(file_roots=(roots,), max_listing=25)
    async with StorageRegistry(settings) as registry:
        fault = await refusal(registry, f"file://{roots}")
    assert fault.reason is Reason.LISTING_TOO_LARGE


async def test_folders_count_like_files_or_a_tree_of_them_would_never_end(roots: Path) -> None:
    for number in range(30):
        (roots / f"{number}").mkdir()
    settings = StorageSettings(file_roots=(roots,), max_listing=25)
    async with StorageRegistry(settings) as registry:
        fault = await refusal(registry, f"file://{roots}")
    assert fault.reason is Reason.LISTING_TOO_LARGE


async def test_a_store_behind_fsspec_with_too_many_files_is_refused(
    memory: fsspec.AbstractFileSystem,
) -> None:
    memory.store.clear()
    for number in range(30):
        memory.pipe_file(f"/m/{number % 3}/{number}", b"x")
    async with StorageRegistry(StorageSettings(max_listing=25)) as registry:
        fault = await refusal(registry, "memory://m")
    assert fault.reason is Reason.LISTING_TOO_LARGE


@given(st.lists(st.text(max_size=40), max_size=40), st.integers(1, 40))
def test_a_count_refuses_if_and_only_if_there_is_too_much(names: list[str], most: int) -> None:
    count = ListingCount("s3://b/m", most)
    is_too_much = len(names) > most or sum(map(len, names)) > 256 * most

    def add_all() -> None:
        for name in names:
            count.add(name)

    if not is_too_much:
        add_all()
        return
    with pytest.raises(SourceFault) as caught:
        add_all()
    assert caught.value.reason is Reason.LISTING_TOO_LARGE


def test_names_without_end_are_refused_as_well() -> None:
    count = ListingCount("s3://b/m", 10)
    with pytest.raises(SourceFault, match="names of more than 2,560 characters"):
        count.add("n" * 2561)


def test_a_listing_that_nobody_waits_for_ends_at_its_next_entry() -> None:
    count = ListingCount("s3://b/m")
    count.add("one")
    count.stop()
    with pytest.raises(SourceFault):
        count.add("two")
