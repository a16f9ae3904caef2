from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.operator.faulted import FaultedScene
from support.operator.on_cluster import Cluster
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.faultproxy import FaultProxy
from trainedmodel_devkit.operatorprocess import OperatorProcess, operator_account

_numbers = itertools.count()

StartOperator = Callable[..., contextlib.AbstractContextManager[OperatorProcess]]


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane(audit_log=True) as running:
        running.install()
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
    shipped = operator_account(control_plane)

    @contextlib.contextmanager
    def start(
        *, resync_s: float = 60.0, flags: Sequence[str] = (), kubeconfig: Path = shipped
    ) -> Iterator[OperatorProcess]:
        log = tmp_path / f"operator-{next(_numbers)}.log"
        with OperatorProcess(kubeconfig, log, f"--resync-s={resync_s}", *flags) as operator:
            try:
                yield operator
            finally:
                operator.kill()

    return start


@pytest.fixture
def scene(control_plane: ControlPlane, cluster: Cluster, tmp_path: Path) -> Iterator[FaultedScene]:
    """The operator behind a fault proxy, with a namespace of its own."""
    with FaultProxy(control_plane) as proxy:
        yield FaultedScene(cluster, proxy, operator_account(control_plane), tmp_path)
