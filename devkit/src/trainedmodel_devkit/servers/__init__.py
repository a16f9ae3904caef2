"""Launchers of the real model servers: what each needs installed, and how it is started."""

from trainedmodel_devkit.servers.base import RunningServer, ServerLauncher, serve
from trainedmodel_devkit.servers.mlserver import MLServer
from trainedmodel_devkit.servers.triton import Triton

__all__ = ["MLServer", "RunningServer", "ServerLauncher", "Triton", "serve"]
