"""The ModelReport as a whole document, as each write sends it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from trainedmodel_contract import modelreport, names
from trainedmodel_contract.modelreport import MAX_MESSAGE, ReportedModel, ReportedServer

from trainedmodel_puller.control.server_monitor import ServerMonitor
from trainedmodel_puller.drivers.base import ModelServer
from trainedmodel_puller.drivers.factory import is_experimental
from trainedmodel_puller.settings import PodIdentity

Document = dict[str, Any]


def server_part(server: ModelServer, watch: ServerMonitor) -> ReportedServer:
    """Return the server part of a report."""
    return ReportedServer(
        kind=server.kind,
        url=server.url,
        reachable=watch.is_reachable,
        since=datetime.fromtimestamp(round(watch.since), UTC),
        message=watch.message[:MAX_MESSAGE].encode("utf-8", "replace").decode() or None,
        experimental=is_experimental(server.kind) or None,
    )


class ReportDocuments:
    """Makes the documents of one pod's report.

    A model that is the same object as in the last document is not dumped again. One document is
    made at a time; it may be made in a thread.
    """

    def __init__(self, identity: PodIdentity) -> None:
        self._identity = identity
        self._dumps: dict[str, tuple[ReportedModel, Document]] = {}

    def make(
        self,
        models: Mapping[str, ReportedModel],
        head: Mapping[str, Any],
        kept: Mapping[str, Any],
        heartbeat: Mapping[str, str],
    ) -> Document:
        """Return the document that says this; `kept` is what others put into its metadata."""
        return {
            "apiVersion": names.API_VERSION,
            "kind": modelreport.KIND,
            "metadata": {
                **kept,
                "name": self._identity.pod_name,
                "namespace": self._identity.namespace,
                "ownerReferences": [self._owner()],
                "annotations": {**kept.get("annotations", {}), **heartbeat},
            },
            **{key: value for key, value in head.items() if value is not None},
            "models": self._dumped(models),
        }

    def _dumped(self, models: Mapping[str, ReportedModel]) -> dict[str, Document]:
        known = self._dumps
        self._dumps = {
            key: found
            if (found := known.get(key)) and found[0] is model
            else (model, model.to_dict())
            for key, model in models.items()
        }
        return {key: document for key, (_, document) in self._dumps.items()}

    def _owner(self) -> dict[str, str]:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": self._identity.pod_name,
            "uid": self._identity.pod_uid,
        }
