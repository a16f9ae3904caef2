"""Probes are answered from the first moment on: the puller is alive before it can do anything."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from puller.in_process import settings
from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.waiting import until
from trainedmodel_puller.app import run
from trainedmodel_puller.volume.volume import Volume

READING = "reading the model volume"
NO_SERVER = "could not detect the model server yet (--server auto)"


async def said(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    """Return an answer; nobody listening yet is a status of 0."""
    try:
        async with session.get(url) as answer:
            return answer.status, (await answer.text()).strip()
    except aiohttp.ClientConnectionError:
        return 0, ""


async def until_said(session: aiohttp.ClientSession, url: str, expected: tuple[int, str]) -> None:
    async def is_said() -> bool:
        return await said(session, url) == expected

    await until(is_said, what=f"{expected} at {url}", every_s=0.02)


async def end(running: asyncio.Task[None]) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(5):
        await running


async def test_while_a_slow_volume_is_read_the_puller_is_alive_and_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()
    prepare = Volume.prepare

    def slowly(volume: Volume) -> None:
        may_go_on.wait(15)
        prepare(volume)

    monkeypatch.setattr(Volume, "prepare", slowly)
    (tmp_path / "config").mkdir()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    running = asyncio.create_task(run(settings(tmp_path, port)))
    async with aiohttp.ClientSession() as session:
        await until_said(session, f"{url}/readyz", (503, READING))
        assert await said(session, f"{url}/healthz") == (200, "ok")
        for path in ("metrics", "status"):
            assert await said(session, f"{url}/{path}") == (503, READING)
        assert (tmp_path / "volume" / "models").is_dir()
        may_go_on.set()
        await until_said(session, f"{url}/readyz", (200, "ok"))
        assert await said(session, f"{url}/healthz") == (200, "ok")
    await end(running)


async def test_while_no_server_says_its_kind_the_puller_is_alive_and_not_ready(
    tmp_path: Path,
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    nobody = f"http://127.0.0.1:{free_port()}"
    told = replace(settings(tmp_path, port), server="auto", server_url=nobody)
    running = asyncio.create_task(run(told))
    async with aiohttp.ClientSession() as session:
        await until_said(session, f"{url}/readyz", (503, NO_SERVER))
        assert await said(session, f"{url}/healthz") == (200, "ok")
        async with session.get(f"{url}/status") as answer:
            assert (await answer.json())["server"]["message"] == NO_SERVER
    await end(running)
    assert (tmp_path / "volume" / "models").is_dir()
