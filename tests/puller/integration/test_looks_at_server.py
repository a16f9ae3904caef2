"""How soon it is noticed that a real server has lost a model, whatever looks took before."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import pytest
from puller_process import Puller, running
from trainedmodel_devkit.models import write_scale_mlserver
from trainedmodel_devkit.servers import MLServer, serve

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

_BLOCKS = """import time

import scale_runtime_plain


class Scale(scale_runtime_plain.Scale):
    async def load(self) -> bool:
        time.sleep(3.5)  # no other request is answered meanwhile
        return await super().load()
"""


def test_a_load_that_blocks_the_server_does_not_make_later_looks_rare(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_scale_mlserver(source / "m", 2)
    blocking = write_scale_mlserver(source / "blocking", 3)
    (blocking / "scale_runtime.py").rename(blocking / "scale_runtime_plain.py")
    (blocking / "scale_runtime.py").write_text(_BLOCKS)
    models = tmp_path / "volume" / "models"
    models.mkdir(parents=True)
    with serve(MLServer(), models) as server:
        flags = ("--file-root", str(source))
        puller = Puller(tmp_path, server="mlserver", server_url=server.url, flags=flags)
        with running(puller):
            puller.put("m", f"file://{source}/m")
            puller.wait("m", state="Loaded", timeout_s=60)
            puller.put("blocking", f"file://{source}/blocking")
            puller.wait("blocking", state="Loaded", timeout_s=90)
            time.sleep(1)  # the look that waited for the load has come back
            unload = f"{server.url}/v2/repository/models/m/unload"
            urllib.request.urlopen(urllib.request.Request(unload, b"{}"), timeout=30).close()
            loads = len(puller.events("loaded"))
            puller.until(lambda: len(puller.events("loaded")) > loads, "m to be loaded again", 60)
