"""Replicas of the operator that elect one, as processes, with a Lease of a test's own."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

from support.operator.on_cluster import Cluster
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.operatorprocess import NAME, SYSTEM, USER, OperatorProcess
from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.waiting import wait_until

DURATION_S, DEADLINE_S = 5, 3
#: Room for a machine that others use as well.
SOON_S = 30


class Replica(OperatorProcess):
    """One operator process that takes part in the election of a test."""

    def __init__(self, kubeconfig: Path, log: Path, *flags: str) -> None:
        self.health_port, self.metrics_port = free_port(), free_port()
        super().__init__(
            kubeconfig,
            log,
            f"--metrics-port={self.metrics_port}",
            f"--health-port={self.health_port}",
            "--log-format=json",
            *flags,
        )
        self.start()

    def lines(self, event: str) -> list[Any]:
        """Return what it logged under this name."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def leads(self) -> bool:
        return self.poll() is None and bool(self.lines("leadership_acquired"))

    @property
    def identity(self) -> str:
        (line,) = self.lines("leadership_acquired") or self.lines("standing_by")
        return str(line["identity"])

    def send(self, number: int) -> float:
        """Send a signal; return when, on the monotonic clock."""
        at = time.monotonic()
        self.kill(number)
        return at

    def probe(self, path: str) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.health_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, None

    def leader_metric(self) -> float:
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        name = "trainedmodel_operator_leader "
        return float(next(line for line in lines if line.startswith(name)).removeprefix(name))


class Election:
    """Replicas that serve one namespace, with a Lease in `trainedmodel-system`."""

    def __init__(self, cluster: Cluster, kubeconfig: Path, folder: Path) -> None:
        self.cluster = cluster
        self.name = f"lease-of-{cluster.namespace}"
        self.kubeconfig = kubeconfig
        self._folder = folder
        self.replicas: list[Replica] = []

    def start(self, kubeconfig: Path | None = None, *flags: str) -> Replica:
        replica = Replica(
            kubeconfig or self.kubeconfig,
            self.log_file(),
            f"--namespace={self.cluster.namespace}",
            "--leader-elect",
            f"--lease-namespace={SYSTEM}",
            f"--lease-name={self.name}",
            f"--lease-duration-s={DURATION_S}",
            f"--lease-renew-deadline-s={DEADLINE_S}",
            "--lease-retry-s=0.5",
            *flags,
        )
        self.replicas.append(replica)
        return replica

    def log_file(self) -> Path:
        """Return where the next replica shall log."""
        return self._folder / f"replica-{len(self.replicas)}.log"

    def start_pair(self, kubeconfig: Path | None = None, *flags: str) -> tuple[Replica, Replica]:
        """Start a leader, with these flags, and, once it leads, a standby."""
        leader = self.start(kubeconfig, *flags)
        wait_until(leader.leads, SOON_S)
        standby = self.start()
        wait_until(lambda: standby.lines("standing_by"), SOON_S)
        return leader, standby

    def lease(self) -> Any:
        text = self.cluster.control_plane.kubectl(
            *("-n", SYSTEM, "get", "lease", self.name, "-o", "json", "--ignore-not-found")
        )
        return json.loads(text)["spec"] if text else {}

    def writes(self, since: int, *, begun_after: datetime | None = None) -> list[str]:
        """Return what operators wrote in the served namespace, with who was answered what.

        The audit log says when a request was answered: `begun_after` leaves out those that the API
        server had received before, from a process that was frozen in the midst of one.
        """
        time.sleep(0.3)  # the audit log may lag
        return [
            f"{one.verb} {one.resource}/{one.subresource} {one.name} {one.code}"
            for one in self.cluster.control_plane.requests(since=since)
            if one.namespace == self.cluster.namespace
            and one.user == USER
            and one.verb in {"create", "patch", "update", "delete"}
            and (begun_after is None or datetime.fromisoformat(one.time) > begun_after)
        ]

    def stop(self) -> None:
        for replica in self.replicas:
            replica.kill()
            replica.wait()


def grant_lease(control_plane: ControlPlane, name: str) -> None:
    """Grant what the shipped role grants for the shipped name, for a Lease of a test's own."""
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": name, "namespace": SYSTEM},
        "rules": [
            {**leases, "verbs": ["create"]},
            {**leases, "verbs": ["get", "patch"], "resourceNames": [name]},
        ],
    }
    control_plane.kubectl("apply", "-f", "-", input=json.dumps(role))
    bind_lease(control_plane, name)


def bind_lease(control_plane: ControlPlane, name: str) -> None:
    control_plane.kubectl(
        *("-n", SYSTEM, "create", "rolebinding", name, f"--role={name}"),
        f"--serviceaccount={SYSTEM}:{NAME}",
    )
