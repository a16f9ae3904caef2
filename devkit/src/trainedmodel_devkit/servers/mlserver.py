"""MLServer, with its scikit-learn runtime.

It runs without worker processes (a load then takes effect in the process that answers, and a kill
ends everything) and never loads at start: one corrupt model would end the whole server.
"""

from pathlib import Path

from trainedmodel_devkit.environments import ensure_environment
from trainedmodel_devkit.ports import free_port


class MLServer:
    """Launcher of MLServer."""

    kind = "mlserver"

    def ensure(self) -> None:
        """Install MLServer at first use."""
        self._environment = ensure_environment("mlserver", expected_s=90)

    @property
    def python(self) -> Path:
        """The interpreter with scikit-learn; models are trained with it, so that pickles fit."""
        return self._environment / "bin" / "python"

    def command(self, model_dir: str | Path, port: int) -> list[str]:
        """Return the command line; host and ports come from the environment."""
        return [str(self._environment / "bin" / "mlserver"), "start", str(model_dir)]

    def env(self, port: int) -> dict[str, str]:
        """Return the settings; bookkeeping files go into the current folder, whatever is set."""
        return {
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": str(port),
            # Neither can be switched off.
            "MLSERVER_GRPC_PORT": str(free_port()),
            "MLSERVER_METRICS_PORT": str(free_port()),
            "MLSERVER_PARALLEL_WORKERS": "0",
            "MLSERVER_LOAD_MODELS_AT_STARTUP": "false",
        }

    def ready_url(self, port: int) -> str:
        """Return liveness: MLServer's own readiness is lost whenever any model is loading."""
        return f"http://127.0.0.1:{port}/v2/health/live"
