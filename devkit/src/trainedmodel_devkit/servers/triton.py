"""Triton: the real `tritonserver` out of PyTriton's wheel, on the CPU, with its Python backend.

The wheel is made for PyTriton, which puts the pieces in place when it starts. Here it is done by
hand, once: the backend folder gets the stub program (one per Python version) beside the backend's
library. The stub links libpython; with that missing it dies at once and Triton waits for it for
ever, so the library is looked for before anything starts.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from trainedmodel_devkit.cache import building, locked
from trainedmodel_devkit.environments import ensure_environment
from trainedmodel_devkit.errors import MissingTool
from trainedmodel_devkit.servers.base import shared_memory

_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


class Triton:
    """Launcher of Triton."""

    kind = "triton"

    def ensure(self) -> None:
        """Install Triton at first use.

        Raises:
            MissingTool: this Python has no shared library.
        """
        self._libpython = _libpython_folder()
        self._environment = ensure_environment("triton", expected_s=25, with_dependencies=False)
        self._backends = self._environment / "backends"
        if not self._backends.exists():
            with locked(f"environments/{self._environment.name}"):
                if not self._backends.exists():
                    self._place_backend()

    def command(self, model_dir: str | Path, port: int) -> list[str]:
        """Return the command line."""
        return [
            str(self._server / "bin" / "tritonserver"),
            f"--model-repository={model_dir}",
            f"--backend-directory={self._backends}",
            "--model-control-mode=explicit",
            # Without this every load first runs the model once to guess its configuration (1.5 s
            # instead of 0.25).
            "--disable-auto-complete-config",
            # One failed load would otherwise make the server unready until that very model loads.
            "--strict-readiness=false",
            "--exit-timeout-secs=3",
            "--allow-grpc=false",
            "--allow-metrics=false",
            "--http-address=127.0.0.1",
            f"--http-port={port}",
            f"--backend-config=python,shm-region-prefix-name={shared_memory(port)}",
        ]

    def env(self, port: int) -> dict[str, str]:
        """Return the library and module paths of the binary and its Python stub."""
        libraries = [self._libpython, self._site_packages / "nvidia_pytriton.libs"]
        return {
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
            "PYTHONPATH": str(self._site_packages),
            "PATH": f"{self._environment / 'bin'}:/usr/bin:/bin",
        }

    def ready_url(self, port: int) -> str:
        """Return liveness."""
        return f"http://127.0.0.1:{port}/v2/health/live"

    @property
    def _site_packages(self) -> Path:
        return self._environment / "lib" / f"python{_VERSION}" / "site-packages"

    @property
    def _server(self) -> Path:
        return self._site_packages / "pytriton" / "tritonserver"

    def _place_backend(self) -> None:
        stub = self._server / "python_backend_stubs" / _VERSION / "triton_python_backend_stub"
        if not stub.exists():
            raise MissingTool(
                f"this Triton has no Python backend for Python {_VERSION}: run with another Python"
            )
        with building(self._backends) as draft:
            shutil.copytree(self._server / "backends" / "python", draft / "python")
            shutil.copy2(stub, draft / "python")


def _libpython_folder() -> Path:
    """Return the folder of this Python's shared library: its own, else one that the system has."""
    name = f"libpython{_VERSION}.so.1.0"
    candidates = [
        sysconfig.get_config_var("LIBDIR"),
        f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/lib",
    ]
    for folder in map(Path, filter(None, candidates)):
        if (folder / name).exists():
            return folder
    raise MissingTool(
        f"Triton's Python backend needs {name}, and this Python was built without it: "
        f"install the package libpython{_VERSION} (Debian, Ubuntu)"
    )
