"""TorchServe, without torch.

Its Python worker imports torch for one thing: to recognise an answer that is a tensor. With all
that it brings that is some gigabytes, and the tests' models answer with numbers. So the real server
and the real worker run with a module of that name that has the one class asked for.
"""

from pathlib import Path

from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.servers.java import JavaServer

_TORCH = Path(__file__).parents[1] / "served" / "torchserve_torch"


class TorchServe(JavaServer):
    """Launcher of TorchServe."""

    kind = "torchserve"
    _package = "ts"
    _main = "org.pytorch.serve.ModelServer"
    _prefix = "TS"

    def command(self, model_dir: str | Path, port: int) -> list[str]:
        """Return the command line; nothing is remembered from one start to the next."""
        return [*super().command(model_dir, port), "-ncs"]

    def env(self, port: int) -> dict[str, str]:
        """Return the settings, and the path of what stands for torch."""
        return {**super().env(port), "PYTHONPATH": str(_TORCH)}

    def _settings(self) -> dict[str, str]:
        return {
            # None of these can be switched off.
            "METRICS_ADDRESS": f"http://127.0.0.1:{free_port()}",
            "GRPC_INFERENCE_PORT": str(free_port()),
            "GRPC_MANAGEMENT_PORT": str(free_port()),
            "DISABLE_TOKEN_AUTHORIZATION": "true",
            "ENABLE_MODEL_API": "true",
            "DISABLE_SYSTEM_METRICS": "true",
        }
