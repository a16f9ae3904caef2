"""The drivers by their name in `--server`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from trainedmodel_contract import names

from trainedmodel_puller.drivers.base import ModelServer, ServerSettings
from trainedmodel_puller.drivers.files import FilesOnly
from trainedmodel_puller.drivers.kserve import KServe
from trainedmodel_puller.drivers.llama import Llama
from trainedmodel_puller.drivers.mlserver import MLServer
from trainedmodel_puller.drivers.mms import MultiModelServer
from trainedmodel_puller.drivers.ovms import OpenVinoModelServer
from trainedmodel_puller.drivers.sglang import SGLang
from trainedmodel_puller.drivers.tfs import TensorFlowServing
from trainedmodel_puller.drivers.torchserve import TorchServe
from trainedmodel_puller.drivers.triton import Triton
from trainedmodel_puller.drivers.vllm import VLLM
from trainedmodel_puller.errors import SettingsError

log: Final = structlog.get_logger()

_DRIVERS: Final[dict[str, Callable[[ServerSettings], ModelServer]]] = {
    "mlserver": MLServer,
    "triton": Triton,
    "kserve": KServe,
    "torchserve": TorchServe,
    "mms": MultiModelServer,
    "llama": Llama,
    "vllm": VLLM,
    "sglang": SGLang,
    "tfs": TensorFlowServing,
    "ovms": OpenVinoModelServer,
    "none": FilesOnly,
}
SERVER_KINDS: Final = tuple(_DRIVERS)
#: Kinds whose driver no test of this project has run against the real server. No build of these
#: servers could be obtained, so their drivers follow documentation and sources. `--help`, the log,
#: `/status` and the ModelReport mark them. Remove a kind when a test runs its real server.
EXPERIMENTAL: Final = frozenset({"sglang", "tfs", "ovms"})
#: Not a kind: `drivers.auto` detects the server.
AUTO: Final = "auto"


def default_url(kind: str) -> str:
    """Return the default address of a kind of server."""
    port = names.SERVER_PORTS.get(kind)
    return "" if port is None else f"http://127.0.0.1:{port}"


def is_experimental(kind: str) -> bool:
    """Return whether the driver of a kind was never tested against the real server."""
    return kind in EXPERIMENTAL


def make_server(kind: str, settings: ServerSettings) -> ModelServer:
    """Make the driver for a server kind.

    Raises:
        SettingsError: unknown kind.
    """
    if kind not in _DRIVERS:
        raise SettingsError(f"--server {kind!r} is not one of {', '.join(SERVER_KINDS)}")
    if is_experimental(kind):
        log.warning(
            "driver_experimental",
            server=kind,
            detail="this driver was never tested against the real server",
        )
    return _DRIVERS[kind](settings)
