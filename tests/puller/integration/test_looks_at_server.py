"""How soon it is noticed that a real server has lost a model, whatever looks took before."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import pytest
from puller.storage.servers import Request
from support.puller.faulty_server import FaultyProxy
from support.puller.processes import Puller, running
from trainedmodel_devkit.models import write_scale_mlserver
from trainedmodel_devkit.servers import MLServer, serve

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def test_a_model_that_was_unloaded_by_hand_is_noticed_also_after_one_slow_look(
    tmp_path: Path,
) -> None:
    write_scale_mlserver(tmp_path / "source" / "m", 2)
    models = tmp_path / "volume" / "models"
    models.mkdir(parents=True)
    slow: list[str] = []

    async def answer_late(request: Request) -> None:
        """Answer as the server would, but as late as while it loads something large."""
        del proxy.faults["/index"]
        await asyncio.sleep(4)
        body = b'[{"name":"m","state":"READY","reason":""}]'
        await request.answer(200, body, Content_Type="application/json")
        slow.append(request.target)

    with serve(MLServer(), models) as server, FaultyProxy(server.url) as proxy:
        flags = ("--file-root", str(tmp_path / "source"))
        puller = Puller(tmp_path, server="mlserver", server_url=proxy.url, flags=flags)
        with running(puller):
            puller.put("m", f"file://{tmp_path}/source/m")
            puller.wait("m", state="Loaded", timeout_s=60)
            proxy.faults["/index"] = answer_late
            puller.until(lambda: bool(slow), "a slow look", 60)
            unload = f"{server.url}/v2/repository/models/m/unload"
            urllib.request.urlopen(urllib.request.Request(unload, b"{}"), timeout=30).close()
            loads = len(puller.events("model_loaded"))
            puller.until(
                lambda: len(puller.events("model_loaded")) > loads, "m to be loaded again", 60
            )
