"""What the launchers of Multi Model Server and TorchServe share: Java programs inside a wheel.

Their Python wrappers do not pass SIGTERM on, so the Java class is started directly. The address of
an instance is that of its management API, which is what a puller speaks to; predictions have an
address of their own (on one address TorchServe answers 404 for the versions of a model). Both take
their settings from the environment, if a configuration file says that they may.

A Python worker runs for each model. Multi Model Server leaves them behind when it ends: the end of
the process group takes them along.
"""

import os
import shutil
import sys
from pathlib import Path

from trainedmodel_devkit.environments import ensure_environment
from trainedmodel_devkit.errors import MissingTool
from trainedmodel_devkit.ports import free_port

_CONFIGURATION = Path(__file__).parents[1] / "served" / "java" / "config.properties"


class JavaServer:
    """What the two launchers have in common."""

    kind: str
    _package: str
    _main: str
    _prefix: str

    def __init__(self) -> None:
        self._inference_ports: dict[int, int] = {}

    def ensure(self) -> None:
        """Install the server at first use.

        Raises:
            MissingTool: there is no Java.
        """
        java = shutil.which("java")
        if java is None:
            raise MissingTool(
                f"{self.kind} needs a Java runtime, 11 or newer, in PATH: "
                "install openjdk-17-jre-headless (Debian, Ubuntu)"
            )
        self._java = os.path.realpath(java)
        self._environment = ensure_environment(self.kind, expected_s=15, with_dependencies=False)

    def command(self, model_dir: str | Path, port: int) -> list[str]:
        """Return the command line."""
        packages = self._packages
        return [
            # the workers' sockets lie in the folder for temporary files, which no two instances
            # may share; its path must be absolute, and the current folder is not known before
            *("/bin/sh", "-c", 'exec "$0" -Djava.io.tmpdir="$PWD" "$@"', self._java),
            f"-Dmodel_server_home={packages}",
            "-cp",
            f"{packages / self._package / 'frontend'}/*",
            self._main,
            *("--python", str(self._environment / "bin" / "python")),
            *("-f", str(_CONFIGURATION)),
            *("-s", str(model_dir)),
        ]

    def env(self, port: int) -> dict[str, str]:
        """Return the settings, each under the server's own prefix."""
        settings = {
            "INFERENCE_ADDRESS": self.inference_url(port),
            "MANAGEMENT_ADDRESS": f"http://127.0.0.1:{port}",
            **self._settings(),
        }
        return {
            "PATH": f"{self._environment / 'bin'}:/usr/bin:/bin",
            "LOG_LOCATION": "logs",
            "METRICS_LOCATION": "logs",
            **{f"{self._prefix}_{key}": value for key, value in settings.items()},
        }

    def _settings(self) -> dict[str, str]:
        return {}

    def ready_url(self, port: int) -> str:
        """Return health, at the address of the predictions."""
        return f"{self.inference_url(port)}/ping"

    def inference_url(self, port: int) -> str:
        """Return where the instance at a management port answers predictions."""
        number = self._inference_ports.setdefault(port, 0) or free_port()
        self._inference_ports[port] = number
        return f"http://127.0.0.1:{number}"

    @property
    def _packages(self) -> Path:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return self._environment / "lib" / f"python{version}" / "site-packages"
