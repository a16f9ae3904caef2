"""A repaired source is noticed while the next try is still minutes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from puller.storage.servers import RawServer, Request
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.control.source_monitor import SourceMonitor
from trainedmodel_puller.core.state import Failure, FailureKey, Stage
from trainedmodel_puller.errors import ModelFault, SourceFault
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.storage.registry import StorageRegistry

KEY: FailureKey = ("m", "r1")


def failed_long_ago(
    state: LiveState, uri: str, stage: Stage, fault: ModelFault, listed: str | None
) -> Failure:
    """Have a model wait for its next try for an hour; its last look was long ago."""
    if listed is not None:
        state.sources[KEY] = listed
    made = state.fail(KEY, stage, Entry(name="m", storage_uri=uri, revision="r1"), fault)
    made = replace(made, until=time.monotonic() + 3600, failed_at=time.monotonic() - 60)
    state.failures[KEY] = made
    return made


@asynccontextmanager
async def looking(state: LiveState) -> AsyncIterator[None]:
    async with StorageRegistry() as registry, Downloader(registry) as downloader:
        task = asyncio.create_task(SourceMonitor(state, downloader).run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def until_tried_again(state: LiveState) -> None:
    async with asyncio.timeout(30):
        await state.wake.wait()
    assert state.failures[KEY].until <= time.monotonic()


async def test_an_object_that_appears_is_fetched_without_waiting_for_the_next_try() -> None:
    state = LiveState(jitter=lambda: 0.0)

    async def respond(request: Request) -> None:
        await request.serve(b"weights")

    async with RawServer(respond) as server:
        fault = SourceFault(Reason.OBJECT_NOT_FOUND, "not there")
        failed_long_ago(state, f"http://127.0.0.1:{server.port}/m", Stage.DOWNLOAD, fault, None)
        async with looking(state):
            await until_tried_again(state)
    assert [request.method for request in server.requests] == ["HEAD"]  # nothing was fetched


async def test_content_that_the_server_refused_is_tried_again_when_it_is_replaced() -> None:
    state = LiveState(jitter=lambda: 0.0)
    etag = '"1"'

    async def respond(request: Request) -> None:
        await request.serve(b"weights", etag)

    async with RawServer(respond) as server:
        uri = server.uri("m")
        async with StorageRegistry() as registry, Downloader(registry) as downloader:
            listed = (await downloader.list(uri)).fingerprint()
        fault = ModelFault(Reason.LOAD_FAILED, "no")
        made = failed_long_ago(state, str(uri), Stage.LOAD, fault, listed)
        before = len(server.requests)
        async with looking(state):
            for _ in range(1000):
                if len(server.requests) > before:
                    break
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert state.failures[KEY] is made  # a look that finds nothing new changes nothing
            assert len(server.requests) == before + 1
        etag = '"2"'
        async with looking(state):
            await until_tried_again(state)


async def test_a_source_that_still_fails_goes_on_waiting() -> None:
    state = LiveState(jitter=lambda: 0.0)
    asked = asyncio.Event()

    async def respond(request: Request) -> None:
        asked.set()
        await request.answer(404)

    async with RawServer(respond) as server:
        fault = SourceFault(Reason.OBJECT_NOT_FOUND, "not there")
        uri = f"http://127.0.0.1:{server.port}/m"
        made = failed_long_ago(state, uri, Stage.DOWNLOAD, fault, None)
        async with looking(state):
            async with asyncio.timeout(30):
                await asked.wait()
            await asyncio.sleep(0.1)
    assert state.failures[KEY] is made


def test_a_model_that_has_moved_on_meanwhile_keeps_its_own_time() -> None:
    state = LiveState(jitter=lambda: 0.0)
    fault = SourceFault(Reason.OBJECT_NOT_FOUND, "not there")
    old = failed_long_ago(state, "http://x.example/m", Stage.DOWNLOAD, fault, None)
    new = failed_long_ago(state, "http://x.example/m", Stage.DOWNLOAD, fault, None)
    assert not state.end_wait(KEY, old)
    assert state.failures[KEY] is new
