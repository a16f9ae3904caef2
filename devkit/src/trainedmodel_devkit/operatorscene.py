"""The operator as a process on a real control plane, and what it asked of it.

It runs as the shipped service account with the shipped roles, so that nothing measured here needs
more rights than a cluster gives. What it sent is counted by the API server's audit, not by itself.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Self

from trainedmodel_devkit import meter
from trainedmodel_devkit.audit import Request
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.errors import StartFailed
from trainedmodel_devkit.operatorprocess import USER, OperatorProcess, operator_account

_WRITES: Final = frozenset({"create", "update", "patch", "delete"})
#: Leader election has a rhythm of its own, whatever the size.
_ELECTION: Final = "leases"
#: The audit log may lag behind the answer.
_AUDIT_LAG_S: Final = 0.5


@dataclass(frozen=True)
class Asked:
    """What the operator asked of the API server in some span.

    Attributes:
        reads: GETs and lists that were answered, by resource.
        shard_writes: Successful ConfigMap writes, by name.
        status_writes: Successful status writes, by the model's name.
        other_writes: Successful writes of anything else (pod annotations, Events), by resource.
        refused: Requests that were refused, conflicts too, by resource and code.
    """

    reads: Counter[str]
    shard_writes: Counter[str]
    status_writes: Counter[str]
    other_writes: Counter[str]
    refused: Counter[str]

    @property
    def requests(self) -> int:
        """All requests, watches and leader election apart."""
        return self.reads.total() + self.writes + self.refused.total()

    @property
    def writes(self) -> int:
        """All writes."""
        counters = (self.shard_writes, self.status_writes, self.other_writes)
        return sum(counter.total() for counter in counters)


class OperatorScene:
    """One control plane and one operator; a context manager. The operator is started by hand."""

    def __init__(self, root: Path, *, program: tuple[str, ...] = ("-m", "trainedmodel_operator")):
        """Use the manifests under `root`; `program` is what Python runs."""
        self._root = root
        self._program = program
        self.control_plane = ControlPlane(audit_log=True)
        self._operator: OperatorProcess | None = None

    def __enter__(self) -> Self:
        self.control_plane.__enter__()
        try:
            self.control_plane.install(root=self._root)
            self._kubeconfig = operator_account(self.control_plane)
        except BaseException:
            self.control_plane.__exit__()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            sys.stderr.write(self.log()[-5000:])
        self.stop()
        self.control_plane.__exit__()

    def start(self, **settings: float | str) -> float:
        """Start the operator with settings like `resync_s=5`; return the monotonic time."""
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        log = self.control_plane.folder / "logs" / "operator.log"
        self._operator = OperatorProcess(self._kubeconfig, log, *flags, program=self._program)
        self._operator.start()
        return time.monotonic()

    def stop(self) -> None:
        """End the operator as a rollout does."""
        if self._operator is not None:
            self._operator.stop(grace_s=10)

    @property
    def pid(self) -> int:
        """Process id of the operator.

        Raises:
            StartFailed: it does not run.
        """
        operator = self._operator
        if operator is None or operator.pid is None:
            raise StartFailed(f"the operator does not run:\n{self.log()[-3000:]}")
        return operator.pid

    def cpu_s(self) -> float:
        """Return the processor time that the running operator has used."""
        return meter.cpu_s(self.pid)

    def log(self) -> str:
        """Return what the operator said."""
        return "" if self._operator is None else self._operator.log()

    def mark(self) -> int:
        """Return the present moment, to be given to `asked`."""
        return self.control_plane.audit_mark()

    def asked(self, since: int = 0) -> Asked:
        """Count what the operator asked of the API server since a mark."""
        time.sleep(_AUDIT_LAG_S)
        mine = [
            one
            for one in self.control_plane.requests(since=since)
            if one.user == USER and one.resource != _ELECTION and one.verb != "watch"
        ]
        return _tally(mine)


def _tally(requests: list[Request]) -> Asked:
    counters: dict[str, Counter[str]] = {field.name: Counter() for field in fields(Asked)}
    for one in requests:
        is_write = one.verb in _WRITES
        if one.code >= (300 if is_write else 400):
            counters["refused"][f"{one.verb} {one.resource}: {one.code}"] += 1
        elif not is_write:
            counters["reads"][one.resource] += 1
        elif one.resource == "configmaps":
            # An object that was created under its own name has none in the request.
            counters["shard_writes"][one.name or "created"] += 1
        elif (one.resource, one.subresource) == ("trainedmodels", "status"):
            counters["status_writes"][one.name] += 1
        else:
            counters["other_writes"][one.resource] += 1
    return Asked(**counters)
