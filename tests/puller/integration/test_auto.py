"""Real servers say who they are; KServe only when named (`TRAINEDMODEL_TEST_SERVERS=kserve`)."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from trainedmodel_devkit.servers import (
    KServe,
    Llama,
    MLServer,
    MultiModelServer,
    TorchServe,
    Triton,
    serve,
)
from trainedmodel_devkit.servers.base import ServerLauncher
from trainedmodel_puller.drivers.auto import Identity, identify

OPTED_INTO = {"kserve"} & set(os.environ.get("TRAINEDMODEL_TEST_SERVERS", "").split(","))
LAUNCHERS: dict[str, type[ServerLauncher]] = {
    "triton": Triton,
    "mlserver": MLServer,
    "kserve": KServe,
    "llama": Llama,
    "mms": MultiModelServer,
    "torchserve": TorchServe,
}

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]


@pytest.mark.parametrize("kind", sorted(LAUNCHERS.keys() - {"kserve"} | OPTED_INTO))
async def test_a_real_server_is_known(kind: str, tmp_path: Path) -> None:
    launcher = LAUNCHERS[kind]()
    with serve(launcher, tmp_path) as server:
        assert await identify(server.url) == Identity(kind, server.url)
        if isinstance(launcher, MultiModelServer | TorchServe):
            predictions = launcher.inference_url(urlsplit(server.url).port or 0)
            assert await identify(predictions) is None
