"""A puller whose models come from a hub: what `main` is when it is looked at, and all of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from puller.storage.hub_server import TOKEN, Hub
from puller.storage.test_download import tree
from support.puller.processes import Puller

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

Make = Callable[..., Puller]


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as running:
        yield running


def served(puller: Puller, name: str) -> dict[str, bytes]:
    found = tree(puller.models / name)
    found.pop(".trainedmodel.json", None)
    return found


async def test_a_branch_that_moves_is_served_whole_with_the_next_version(
    hub: Hub, files_puller: Make
) -> None:
    puller = await asyncio.to_thread(files_puller, env={"HF_ENDPOINT": hub.url})
    repository = hub.repository("org/m")
    first = repository.commit({"model.bin": os.urandom(200_000), "config.json": b"{}"})
    second = {"model.bin": os.urandom(100_000), "more/vocab.txt": b"words"}

    def scene() -> None:
        puller.put("m", "hf://org/m", version="1")
        puller.put("pinned", f"hf://org/m:{first}")
        puller.wait("m", state="Loaded", timeout_s=60)
        assert served(puller, "m") == repository.commits[first]
        repository.commit(second)
        puller.put("m", "hf://org/m", version="2")
        puller.until(lambda: served(puller, "m") == second, "the new commit to be served", 60)
        puller.wait("m", state="Loaded", timeout_s=60)
        puller.wait("pinned", state="Loaded", timeout_s=60)
        assert served(puller, "pinned") == repository.commits[first]

    await asyncio.to_thread(scene)


async def test_a_repository_that_comes_late_or_is_shared_late_is_found(
    hub: Hub, files_puller: Make
) -> None:
    env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    puller = await asyncio.to_thread(files_puller, env=env)

    def scene() -> None:
        puller.put("late", "hf://org/late")
        puller.wait("late", state="Failed", reason="ObjectNotFound", timeout_s=60)
        hub.repository("org/late", is_private=True).commit({"x": b"1"})
        puller.wait("late", state="Loaded", timeout_s=60)
        assert served(puller, "late") == {"x": b"1"}

    await asyncio.to_thread(scene)
    assert not any(TOKEN.encode() in path.read_bytes() for path in _written(puller))


def _written(puller: Puller) -> list[Path]:
    roots = (puller.models, puller.state, puller.log)
    return [
        p for root in roots for p in ([root] if root.is_file() else root.rglob("*")) if p.is_file()
    ]
