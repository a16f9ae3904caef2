"""Reports as last read: a cache that is validated each time, never trusted.

ModelReports are the heavy part of a pass (5,000 models: 300 KB for each pod), and most of them have
not changed since the last one. So a pass lists their metadata only, takes from here each report
whose uid and resourceVersion are still those of the list, and reads the others one by one. Watch
events drop their documents in here on the way, which usually makes even those reads unnecessary. A
report that no event ever brought is simply read: nothing depends on the watch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from pydantic import ValidationError
from trainedmodel_contract.modelreport import ModelReport

from trainedmodel_operator.core.state import ParentKey
from trainedmodel_operator.kube import KubeClient

READS_AT_ONCE: Final = 8

log = structlog.get_logger()
Document = Mapping[str, Any]


@dataclass(slots=True)
class _Cached:
    version: str
    document: Document | None
    report: ModelReport | None = None

    def parsed(self) -> ModelReport | None:
        """Parse once; a report that is not one counts as missing."""
        if self.document is not None:
            try:
                self.report = ModelReport.model_validate(self.document)
            except ValidationError as error:
                name = self.document["metadata"].get("name")
                log.warning("report unusable", report=name, faults=error.error_count())
            self.document = None
        return self.report


class ReportCache:
    """The reports of all parents, by their uid."""

    def __init__(self) -> None:
        self._cached: dict[str, _Cached] = {}
        self._listed: dict[ParentKey, set[str]] = {}

    def offer(self, document: Document) -> None:
        """Keep what a watch event brought."""
        metadata = document["metadata"]
        cached = self._cached.get(metadata["uid"])
        if cached is None or cached.version != metadata["resourceVersion"]:
            self._cached[metadata["uid"]] = _Cached(metadata["resourceVersion"], document)

    def forget(self, uid: str) -> None:
        """Drop a report that was deleted."""
        self._cached.pop(uid, None)

    async def read(self, client: KubeClient, key: ParentKey) -> dict[str, ModelReport]:
        """Return a parent's reports as they are now, by the uid of the pod that owns each.

        Raises:
            ApiError: a list or read failed; nothing partial is returned.
        """
        listed = await client.list_report_metadata(*key)
        await self._read_changed(client, [item["metadata"] for item in listed])
        uids = {item["metadata"]["uid"] for item in listed}
        for gone in self._listed.pop(key, set()) - uids:
            self.forget(gone)
        if uids:
            self._listed[key] = uids
        reports: dict[str, ModelReport] = {}
        for uid in sorted(uids):
            cached = self._cached.get(uid)
            report = None if cached is None else cached.parsed()
            if report is not None and report.pod_uid and _is_of_its_pod(report):
                reports[report.pod_uid] = report
        return reports

    async def _read_changed(self, client: KubeClient, listed: list[Document]) -> None:
        changed = [
            metadata
            for metadata in listed
            if metadata["uid"] not in self._cached
            or self._cached[metadata["uid"]].version != metadata["resourceVersion"]
        ]
        limit = asyncio.Semaphore(READS_AT_ONCE)

        async def read_one(metadata: Document) -> None:
            async with limit:
                document = await client.get_report(metadata["namespace"], metadata["name"])
            if document is None:
                self.forget(metadata["uid"])
            else:
                self.offer(document)

        if not changed:
            return
        async with asyncio.TaskGroup() as group:
            for metadata in changed:
                group.create_task(read_one(metadata))


def _is_of_its_pod(report: ModelReport) -> bool:
    return any(
        owner.kind == "Pod" and owner.name == report.metadata.name
        for owner in report.metadata.owner_references
    )
