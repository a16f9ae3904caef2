"""Which driver for `--server`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from trainedmodel_puller.drivers.base import ModelServer
from trainedmodel_puller.drivers.files import FilesOnly
from trainedmodel_puller.drivers.mlserver import MLServer
from trainedmodel_puller.drivers.triton import Triton
from trainedmodel_puller.errors import SettingsError

SERVER_KINDS: Final = ("mlserver", "triton", "none")


def make_server(kind: str, url: str, model_dir: Path, load_timeout_s: float) -> ModelServer:
    """Make the driver for a server kind.

    Raises:
        SettingsError: unknown kind.
    """
    if kind == "mlserver":
        return MLServer(url, load_timeout_s)
    if kind == "triton":
        return Triton(url, load_timeout_s)
    if kind == "none":
        return FilesOnly(model_dir)
    raise SettingsError(f"--server {kind!r} is not one of {', '.join(SERVER_KINDS)}")
