"""The parts that the shard writer and the nudger share: client, errands, clock, metrics, jitter.

Both carry out each write by itself and defer it by itself when it fails.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from trainedmodel_operator.api.protocol import KubeClient
from trainedmodel_operator.core.pacing.put_off import Failure, PutOff, put_off
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.reconcile.errands import Errands


@dataclass(frozen=True, slots=True)
class WriteContext:
    """The shared parts of the writers of one operator."""

    client: KubeClient
    errands: Errands
    clock: Callable[[], datetime]
    metrics: Metrics
    jitter: Callable[[], float] = random.random

    def defer(self, before: PutOff | None, failure: Failure) -> tuple[PutOff, float]:
        """Return a failed write with its next try, and the seconds until that."""
        now = self.clock()
        deferred = put_off(before, failure, now, self.jitter())
        return deferred, round((deferred.until - now).total_seconds(), 2)
