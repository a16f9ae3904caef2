"""Tell others what the loop knows. Reporters read; the loop never waits for one.

The Kubernetes reporter owns one object, the ModelReport named like its pod. It sends merge patches
that hold only what changed, at most one every `_SPACING_S` seconds, and compares the whole object
once a minute, so that a report that somebody edited or deleted comes back.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from trainedmodel_contract import modelreport, names
from trainedmodel_contract.modelreport import (
    MAX_MESSAGE,
    ModelReport,
    ReportedModel,
    ReportedServer,
)
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller import metrics
from trainedmodel_puller.core.report import diff_models
from trainedmodel_puller.drivers.base import ModelServer
from trainedmodel_puller.kube import ReportClient, ReportGone
from trainedmodel_puller.loop import Loop
from trainedmodel_puller.serverwatch import ServerWatch
from trainedmodel_puller.settings import PodIdentity
from trainedmodel_puller.state import LiveState

log: Final = structlog.get_logger()

_SPACING_S: Final = 0.2
_COMPARE_S: Final = 60.0
_RETRY_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


def server_part(server: ModelServer, watch: ServerWatch) -> ReportedServer:
    """Say which server there is and whether it answers."""
    return ReportedServer(
        kind=server.kind,
        url=server.url,
        reachable=watch.is_reachable,
        since=datetime.fromtimestamp(round(watch.since), UTC),
        message=watch.message[:MAX_MESSAGE] or None,
    )


class KubernetesReporter:
    """Keeps one ModelReport equal to what the loop last knew."""

    def __init__(
        self,
        identity: PodIdentity,
        client: ReportClient,
        parts: tuple[LiveState, Loop, ServerWatch, ModelServer],
    ) -> None:
        self._identity = identity
        self._client = client
        self._state, self._loop, self._watch, self._server = parts
        self._news = asyncio.Event()
        self._sent: dict[str, ReportedModel] = {}
        self._sent_head: dict[str, Any] = {}
        self._is_sure = False
        self._compared = 0.0
        self._loop.on_pass.append(self._news.set)

    async def run(self) -> None:
        """Report for ever."""
        failures = 0
        while True:
            if not failures:
                await self._wait()
            self._news.clear()
            try:
                await self._send()
                failures = 0
                await asyncio.sleep(_SPACING_S)
            except Exception as error:
                metrics.REPORT_WRITES.labels(outcome="failed").inc()
                pause = _RETRY_S[min(failures, len(_RETRY_S) - 1)]
                failures += 1
                self._is_sure = False
                log.warning("report_failed", why=str(error)[:500], retry_in_s=pause)
                await asyncio.sleep(pause)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_COMPARE_S):
                await self._news.wait()
        except TimeoutError:
            pass

    def _head(self) -> dict[str, Any]:
        problem = self._state.desired.problem
        return {
            "inferenceService": self._identity.service,
            "configDigest": self._state.desired.config_digest,
            "configProblem": {"reason": Reason.CONFIG_UNREADABLE, "message": problem[:MAX_MESSAGE]}
            if problem
            else None,
            "server": server_part(self._server, self._watch).to_dict(),
        }

    async def _send(self) -> None:
        if not self._is_sure or time.monotonic() - self._compared > _COMPARE_S:
            await self._compare()
        models, head = dict(self._loop.models), self._head()
        patch = self._patch(models, head)
        if not patch:
            return
        try:
            await self._client.patch(self._identity.pod_name, patch)
        except ReportGone:
            self._is_sure = False
            await self._create(models, head)
        metrics.REPORT_WRITES.labels(outcome="written").inc()
        self._sent, self._sent_head, self._is_sure = models, head, True

    def _patch(self, models: dict[str, ReportedModel], head: dict[str, Any]) -> dict[str, Any]:
        patch: dict[str, Any] = {
            key: value for key, value in head.items() if self._sent_head.get(key) != value
        }
        if "server" in patch and "message" not in patch["server"]:
            patch["server"] = {**patch["server"], "message": None}
        changed = diff_models(self._sent, models)
        if changed:
            patch["models"] = changed
        return patch

    async def _compare(self) -> None:
        """Read the object: what it says is what the next patch starts from."""
        document = await self._client.read(self._identity.pod_name)
        if document is None:
            await self._create(dict(self._loop.models), self._head())
            return
        self._sent = {
            str(key): ReportedModel.model_validate(value)
            for key, value in (document.get("models") or {}).items()
        }
        self._sent_head = {key: document.get(key) for key in self._head()}
        if ModelReport.model_validate(document).pod_uid != self._identity.pod_uid:
            # a dead pod of the same name (a StatefulSet's) left it: it would be collected with it
            await self._client.patch(
                self._identity.pod_name, {"metadata": {"ownerReferences": [self._owner()]}}
            )
        self._is_sure, self._compared = True, time.monotonic()

    def _owner(self) -> dict[str, str]:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": self._identity.pod_name,
            "uid": self._identity.pod_uid,
        }

    async def _create(self, models: dict[str, ReportedModel], head: dict[str, Any]) -> None:
        await self._client.create(
            {
                "apiVersion": names.API_VERSION,
                "kind": modelreport.KIND,
                "metadata": {
                    "name": self._identity.pod_name,
                    "namespace": self._identity.namespace,
                    "ownerReferences": [self._owner()],
                },
                **{key: value for key, value in head.items() if value is not None},
                "models": {key: model.to_dict() for key, model in models.items()},
            }
        )
        self._sent, self._sent_head = models, head
        self._is_sure, self._compared = True, time.monotonic()
        log.info("report_created", pod=self._identity.pod_name)
