"""The nudger: sets the annotation that makes a kubelet refresh the shards of a pod.

A nudge is the least urgent decision of a pass: without it a kubelet refreshes within its own
minute. So a pass hands its nudges over and does not wait. A nudge that fails is deferred by itself
(`core.pacing.put_off`): the next plans leave that pod out until it is due again. A refused nudge
stays deferred even if the shards change, because a refusal of a pod's annotation seldom depends on
its value.

For each pod only the latest nudge counts. One that arrives while another is in progress is sent
after it. Passes get the values that were sent (`sent_since`), because their lists may not show them
yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import inf
from typing import Final

import structlog

from trainedmodel_operator.core.pacing.put_off import Failure, Kind, PutOff
from trainedmodel_operator.core.plan import Nudge
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.core.words import api_words
from trainedmodel_operator.errors import ApiError, NotFound, NotLeading, TerminalError, Throttled
from trainedmodel_operator.reconcile.write_context import WriteContext

#: Of one service; a namespace whose pods cannot be annotated keeps no other one waiting.
NUDGES_AT_ONCE: Final = 8
#: All nudges of a pod are one attempt: see the top of this module.
_ATTEMPT: Final = "annotation"

log = structlog.get_logger()


@dataclass(slots=True)
class _Pod:
    """The state of one pod.

    Attributes:
        sent: The value that was sent last, or is under way; None: none, or it failed.
        answered_at: When its answer came; infinity while it is under way.
        wish: The nudge to send after the one in progress.
    """

    sent: str | None = None
    answered_at: float = -inf
    wish: Nudge | None = None
    put_off: PutOff | None = None

    @property
    def is_busy(self) -> bool:
        return self.answered_at == inf


class Nudger:
    """Annotates pods."""

    def __init__(self, context: WriteContext) -> None:
        self._context = context
        self._pods: dict[ServiceKey, dict[str, _Pod]] = {}
        self._limits: dict[ServiceKey, asyncio.Semaphore] = {}

    def put_off(self, key: ServiceKey) -> dict[str, PutOff]:
        """Return the pods of a service whose last nudge failed, by uid."""
        pods = self._pods.get(key, {})
        return {uid: pod.put_off for uid, pod in pods.items() if pod.put_off is not None}

    def sent_since(self, key: ServiceKey, began: float) -> dict[str, str]:
        """Return the values that a list begun at `began` may not show, by the pod's uid."""
        pods = self._pods.get(key, {})
        return {
            uid: pod.sent
            for uid, pod in pods.items()
            if pod.sent is not None and pod.answered_at >= began
        }

    def submit(self, key: ServiceKey, uids: Collection[str], nudges: Iterable[Nudge]) -> None:
        """Take over the nudges of a pass that found the pods `uids`."""
        pods = self._pods.setdefault(key, {})
        for uid in [uid for uid, pod in pods.items() if uid not in uids and not pod.is_busy]:
            self._note(key, pods.pop(uid), None)
        for nudge in nudges:
            pod = pods.setdefault(nudge.uid, _Pod())
            pod.wish = nudge
            if not pod.is_busy:
                pod.answered_at = inf
                self._context.errands.start(self._nudge(key, pod), f"nudge {key} {nudge.pod}")
        if not pods:
            del self._pods[key]
            self._limits.pop(key, None)

    def forget_namespace(self, namespace: str) -> None:
        """Forget the failures in a namespace that cannot be read any more."""
        for key, pods in self._pods.items():
            for pod in pods.values() if key.namespace == namespace else ():
                self._note(key, pod, None)

    async def _nudge(self, key: ServiceKey, pod: _Pod) -> None:
        """Send the nudges of this pod until none waits."""
        limit = self._limits.setdefault(key, asyncio.Semaphore(NUDGES_AT_ONCE))
        try:
            async with limit:
                while pod.wish is not None:
                    nudge, pod.wish = pod.wish, None
                    pod.sent = nudge.value
                    await self._send(key, pod, nudge)
        finally:
            pod.answered_at = asyncio.get_running_loop().time()

    async def _send(self, key: ServiceKey, pod: _Pod, nudge: Nudge) -> None:
        try:
            await self._context.client.annotate_pod(key.namespace, nudge.pod, nudge.value)
        except (NotFound, NotLeading):
            pod.sent = None  # it is gone, or another replica leads: nothing to report
        except Exception as error:
            pod.sent = pod.wish = None
            self._failed(key, pod, nudge, error)
        else:
            self._note(key, pod, None)
            log.info("pod_nudged", key=str(key), pod=nudge.pod, detail=nudge.reason)

    def _failed(self, key: ServiceKey, pod: _Pod, nudge: Nudge, error: Exception) -> None:
        is_known = isinstance(error, ApiError)
        kind = Kind.REFUSED if isinstance(error, TerminalError) else Kind.TROUBLE
        pause_s = error.retry_after_s if isinstance(error, Throttled) else 0.0
        words = api_words(str(error)) if is_known else "internal error of the operator"
        failed, again_in_s = self._context.defer(
            pod.put_off, Failure(kind, words, _ATTEMPT, pause_s)
        )
        self._note(key, pod, failed)
        log.warning(
            "pod_not_nudged",
            key=str(key),
            pod=nudge.pod,
            error_type=error.cause if isinstance(error, ApiError) else "fault",
            error=str(error),
            again_in_s=again_in_s,
            exc_info=None if is_known else error,
        )

    def _note(self, key: ServiceKey, pod: _Pod, failure: PutOff | None) -> None:
        change = (failure is not None) - (pod.put_off is not None)
        pod.put_off = failure
        if change:
            self._context.metrics.count_put_off(key.namespace, "nudge", change)
