"""The operator as a process beside a control plane.

It runs as the service account that ships, with the roles that ship, so that a test never needs more
rights than a cluster gives. Nothing of the caller's environment reaches it. It opens no ports
unless its flags say so: several operators run side by side.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.processes import ManagedProcess

SYSTEM: Final = "trainedmodel-system"
NAME: Final = "trainedmodel-operator"
USER: Final = f"system:serviceaccount:{SYSTEM}:{NAME}"

_PROGRAM: Final = ("-m", "trainedmodel_operator")
#: The last value of a flag counts, so a caller's flags override these.
_FLAGS: Final = ("--metrics-port=0", "--health-port=0", "--log-format=console")
_LAST_WORDS: Final = 20_000


def operator_account(control_plane: ControlPlane, namespace: str = SYSTEM) -> Path:
    """Return a kubeconfig of the operator's service account, which must be there."""
    return control_plane.kubeconfig_for_service_account(namespace, NAME)


class OperatorProcess(ManagedProcess):
    """One operator. As a context manager it runs within the block; it may be started again.

    If the block fails, its log goes to standard error.
    """

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        *flags: str,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = _PROGRAM,
    ) -> None:
        """Describe it: `program` is what Python runs, `env` comes on top of the environment."""
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(log.parent),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "KUBECONFIG": str(kubeconfig),
            **(env or {}),
        }
        command = [sys.executable, *program, *_FLAGS, *flags]
        super().__init__("operator", command, log=log, env=environment)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            sys.stderr.write(f"--- {self.log_file.name}\n{self.log()[-_LAST_WORDS:]}")
        self.stop()
