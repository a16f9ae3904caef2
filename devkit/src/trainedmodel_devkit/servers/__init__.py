"""Launchers of the real model servers: what each needs installed, and how it is started."""

from trainedmodel_devkit.servers.base import RunningServer, ServerLauncher, serve
from trainedmodel_devkit.servers.kserve import KServe
from trainedmodel_devkit.servers.llama import Llama
from trainedmodel_devkit.servers.mlserver import MLServer
from trainedmodel_devkit.servers.mms import MultiModelServer
from trainedmodel_devkit.servers.torchserve import TorchServe
from trainedmodel_devkit.servers.triton import Triton

__all__ = [
    "KServe",
    "Llama",
    "MLServer",
    "MultiModelServer",
    "RunningServer",
    "ServerLauncher",
    "TorchServe",
    "Triton",
    "serve",
]
