"""KServe's own `ModelServer`, with a model class of ours, as custom predictors are built."""

from pathlib import Path

from trainedmodel_devkit.environments import ensure_environment

_PROGRAM = Path(__file__).parents[1] / "served" / "kserve_scale.py"


class KServe:
    """Launcher of a KServe model server."""

    kind = "kserve"

    def ensure(self) -> None:
        """Install KServe at first use."""
        self._environment = ensure_environment("kserve", expected_s=90)

    def command(self, model_dir: str | Path, port: int) -> list[str]:
        """Return the command line."""
        python = str(self._environment / "bin" / "python")
        return [python, str(_PROGRAM), str(model_dir), str(port)]

    def env(self, port: int) -> dict[str, str]:
        """Return nothing: all is on the command line."""
        return {}

    def ready_url(self, port: int) -> str:
        """Return liveness."""
        return f"http://127.0.0.1:{port}/v2/health/live"
