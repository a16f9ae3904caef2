from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from faulted_operator import FaultedScene
from operator_on_cluster import Cluster, OperatorProcess
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.faultproxy import FaultProxy

ROOT = Path(__file__).resolve().parents[3]

_numbers = itertools.count()

StartOperator = Callable[..., contextlib.AbstractContextManager[OperatorProcess]]


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane(audit_log=True) as running:
        running.kubectl("apply", "-f", str(ROOT / "crds"))
        running.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        running.kubectl("apply", "-k", str(ROOT / "deploy" / "base"))
        running.kubectl("delete", "mutatingwebhookconfigurations", "--all")  # nobody serves it
        yield running


@pytest.fixture
def cluster(control_plane: ControlPlane) -> Cluster:
    """A namespace of its own on the shared control plane."""
    namespace = f"demo-{next(_numbers)}"
    control_plane.kubectl("create", "namespace", namespace)
    return Cluster(control_plane, namespace)


@pytest.fixture
def start_operator(control_plane: ControlPlane, tmp_path: Path) -> StartOperator:
    """Start the operator as the shipped service account, with the shipped roles."""
    shipped = control_plane.kubeconfig_for_service_account(
        "trainedmodel-system", "trainedmodel-operator"
    )

    @contextlib.contextmanager
    def start(
        *, resync_s: float = 60.0, flags: Sequence[str] = (), kubeconfig: Path = shipped
    ) -> Iterator[OperatorProcess]:
        log = tmp_path / f"operator-{next(_numbers)}.log"
        with log.open("wb") as output:
            child = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "trainedmodel_operator",
                    "--metrics-port=0",
                    "--health-port=0",
                    "--log-format=console",
                    f"--resync-s={resync_s}",
                    *flags,
                ],
                env={**os.environ, "KUBECONFIG": str(kubeconfig), "NO_PROXY": "127.0.0.1"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        operator = OperatorProcess(child, log)
        try:
            yield operator
        except BaseException:
            sys.stderr.write(operator.log())
            raise
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
            child.wait(10)

    return start


@pytest.fixture
def scene(control_plane: ControlPlane, cluster: Cluster, tmp_path: Path) -> Iterator[FaultedScene]:
    """The operator behind a fault proxy, with a namespace of its own."""
    kubeconfig = control_plane.kubeconfig_for_service_account(
        "trainedmodel-system", "trainedmodel-operator"
    )
    with FaultProxy(control_plane) as proxy:
        yield FaultedScene(cluster, proxy, kubeconfig, tmp_path)
