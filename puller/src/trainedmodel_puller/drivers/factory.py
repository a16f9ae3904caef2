"""Which driver for `--server`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

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

#: Kind to driver and the address that the server listens on when nobody says otherwise.
_DRIVERS: Final[dict[str, tuple[Callable[[ServerSettings], ModelServer], str]]] = {
    "mlserver": (MLServer, "http://127.0.0.1:8080"),
    "triton": (Triton, "http://127.0.0.1:8000"),
    "kserve": (KServe, "http://127.0.0.1:8080"),
    "torchserve": (TorchServe, "http://127.0.0.1:8081"),
    "mms": (MultiModelServer, "http://127.0.0.1:8081"),
    "llama": (Llama, "http://127.0.0.1:8080"),
    "vllm": (VLLM, "http://127.0.0.1:8000"),
    "sglang": (SGLang, "http://127.0.0.1:30000"),
    "tfs": (TensorFlowServing, "http://127.0.0.1:8501"),
    "ovms": (OpenVinoModelServer, "http://127.0.0.1:8000"),
    "none": (FilesOnly, ""),
}
SERVER_KINDS: Final = tuple(_DRIVERS)
#: Not a kind: the server is asked which one it is (`drivers.auto`).
AUTO: Final = "auto"


def default_url(kind: str) -> str:
    """Return where a server of a kind listens unless told otherwise."""
    return _DRIVERS[kind][1]


def make_server(kind: str, settings: ServerSettings) -> ModelServer:
    """Make the driver for a server kind.

    Raises:
        SettingsError: unknown kind.
    """
    if kind not in _DRIVERS:
        raise SettingsError(f"--server {kind!r} is not one of {', '.join(SERVER_KINDS)}")
    return _DRIVERS[kind][0](settings)
