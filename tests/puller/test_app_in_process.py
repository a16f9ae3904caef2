"""P8: nothing blocks the event loop: the whole puller runs here under a guard that forbids it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import aiohttp
from blockbuster import blockbuster_ctx
from puller.in_process import settings
from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.waiting import until
from trainedmodel_puller.app import run


def write_entry(root: Path, name: str, uri: str, revision: str = "r1") -> None:
    entry = {"name": name, "storageUri": uri, "revision": revision}
    temporary = root / f".{name}"
    temporary.write_text(json.dumps(entry))
    temporary.replace(root / "config" / f"{name}.json")


async def states(session: aiohttp.ClientSession, url: str) -> dict[str, str]:
    async with session.get(f"{url}/status") as answer:
        document = await answer.json()
    return {name: model["state"] for name, model in document["models"].items()}


async def until_states(
    wanted: dict[str, str], session: aiohttp.ClientSession, url: str, running: asyncio.Task[None]
) -> None:
    async def are_there() -> bool:
        if running.done():
            running.result()
        try:
            return await states(session, url) == wanted
        except aiohttp.ClientError:
            return False

    await until(are_there, what=f"the states {wanted}", every_s=0.02)


async def drive(root: Path, *, has_watch: bool) -> None:
    for folder in ("config", "source"):
        (root / folder).mkdir()
    source = root / "source" / "m"
    source.mkdir()
    (source / "weights").write_bytes(b"w" * 10_000)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with blockbuster_ctx("trainedmodel_puller"):
        running = asyncio.create_task(run(settings(root, port, has_watch=has_watch)))
        async with aiohttp.ClientSession() as session:
            await until_states({}, session, url, running)
            await asyncio.to_thread(write_entry, root, "m", f"file://{source}")
            await asyncio.to_thread(write_entry, root, "bad", "file:///nowhere")
            await until_states({"m": "Loaded", "bad": "Failed"}, session, url, running)
            await asyncio.to_thread(write_entry, root, "m", f"file://{source}", "r2")
            await asyncio.to_thread((root / "config" / "bad.json").unlink)
            await until_states({"m": "Loaded"}, session, url, running)
            for path, word in (("/healthz", "ok"), ("/readyz", "ok"), ("/metrics", "models{")):
                async with session.get(url + path) as answer:
                    assert answer.status == 200
                    assert word in await answer.text()
            await asyncio.to_thread((root / "config" / "m.json").unlink)
            await until_states({}, session, url, running)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(5):
            await running


async def test_p8_nothing_blocks_the_event_loop(tmp_path: Path) -> None:
    await drive(tmp_path, has_watch=True)


async def test_everything_works_with_the_watcher_switched_off(tmp_path: Path) -> None:
    await drive(tmp_path, has_watch=False)
