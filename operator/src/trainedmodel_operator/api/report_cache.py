"""The cache of ModelReports. Each use is validated against a fresh list of metadata.

ModelReports are the heavy part of a pass (5,000 models: 300 KB for each pod), and most have not
changed since the last pass. So a pass lists their metadata only. It takes a report from the cache
if uid, generation and owner are those of the list, and reads the others one by one. Watch events
put their documents in here, which makes most of those reads unnecessary. Nothing depends on the
watch: a report without an event is read.

A report that cannot be read affects no other report. Its last content stays, and the next pass
reads it again (`unread`).

A heartbeat changes the metadata of a report but not its generation. So it triggers no pass, and
costs neither a read nor a parse. A pass sees the heartbeat in the list and judges by it whether the
report is stale (`core.staleness`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from pydantic import ValidationError
from trainedmodel_contract.modelreport import ModelReport

from trainedmodel_operator.api.protocol import KubeClient
from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.fingerprint import content_version, report_part, stale_part
from trainedmodel_operator.core.report_reader import ReportReader
from trainedmodel_operator.core.staleness import (
    LastSeen,
    Staleness,
    missed_observations,
    observe,
    staleness,
)
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.errors import ApiError

READS_AT_ONCE: Final = 8
#: A report of 5,000 models takes a busy API server a second.
PATIENCE_S: Final = 5.0
SMALLEST_PIECE: Final = 50
LARGEST_PIECE: Final = 500
#: Reported models in one piece of a list of reports, each some 100 bytes.
MODELS_A_PIECE: Final = 40_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Cached:
    """A report as last read; None if it was no report."""

    version: str
    report: ModelReport | None


class ReportCache:
    """The reports of all services, by their uid."""

    def __init__(self) -> None:
        self._reader = ReportReader()
        self._cached: dict[str, _Cached] = {}
        self._listed: dict[ServiceKey, set[str]] = {}
        self._last_seen: dict[ServiceKey, dict[str, LastSeen]] = {}
        self._looked: dict[ServiceKey, float] = {}
        self._staleness: dict[ServiceKey, dict[str, Staleness]] = {}
        self._parts: dict[ServiceKey, dict[str, str]] = {}
        self._parts_read: dict[ServiceKey, dict[str, str]] = {}
        self._unread: dict[ServiceKey, frozenset[str]] = {}

    def offer(self, document: Document) -> bool:
        """Keep what a watch event brought; return whether it is news, and not a heartbeat alone."""
        metadata = document["metadata"]
        version = content_version(metadata)
        cached = self._cached.get(metadata["uid"])
        if cached is not None and cached.version == version:
            return False
        self._cached[metadata["uid"]] = _Cached(version, self._read(document))
        return True

    def forget(self, uid: str) -> None:
        """Drop a report that was deleted."""
        self._cached.pop(uid, None)

    async def read(self, client: KubeClient, key: ServiceKey) -> list[ModelReport]:
        """Return a service's reports as they are now; `of_their_pods` says whose they are.

        One that cannot be read is returned as it was last read; `unread` names it.

        Raises:
            ApiError: the list failed.
        """
        listed = [item["metadata"] for item in await client.list_report_metadata(*key)]
        self._note(key, listed)
        self._unread.pop(key, None)
        unread = await self._read_changed(client, listed)
        if unread:
            self._unread[key] = frozenset(unread)
        return self._known(key, listed)

    def unread(self, key: ServiceKey) -> frozenset[str]:
        """Return the uids of the pods whose reports could not be read by the last `read`."""
        return self._unread.get(key, frozenset())

    def recall(self, key: ServiceKey, listed: Sequence[Document]) -> list[ModelReport] | None:
        """Return a service's reports out of what was offered; None if one of them was not.

        `listed` is the metadata of all of them, as a list has just shown it.
        """
        self._note(key, listed)
        return None if self._changed(listed) else self._known(key, listed)

    def _note(self, key: ServiceKey, listed: Sequence[Document]) -> None:
        self.listen(key, listed)
        self._parts_read.pop(key, None)
        if key in self._parts:
            self._parts_read[key] = self._parts[key]

    def _known(self, key: ServiceKey, listed: Sequence[Document]) -> list[ModelReport]:
        uids = {metadata["uid"] for metadata in listed}
        for gone in self._listed.pop(key, set()) - uids:
            self.forget(gone)
        if uids:
            self._listed[key] = uids
        found = (self._cached.get(uid) for uid in sorted(uids))
        return [one.report for one in found if one is not None and one.report is not None]

    def staleness(self, key: ServiceKey) -> dict[str, Staleness]:
        """Return how quiet a service's reports were when last read, by the uid of their pod."""
        return self._staleness.get(key, {})

    def _read(self, document: Document) -> ModelReport | None:
        """Read at once, so that no document is kept: as plain JSON it is ten times as large."""
        try:
            return self._reader.read(document)
        except ValidationError as error:
            name = document["metadata"].get("name")
            log.warning("report_unusable", report=name, faults=error.error_count())
            return None

    def parts(self, key: ServiceKey, pod_uid: str, *, as_read: bool = False) -> list[str]:
        """Return the part of a pod's report in its service's fingerprint.

        That is as last listed, by whomever; or `as_read` by the last `read`: a survey in the midst
        of a pass must not make the pass look as if it had seen more than it has.
        """
        part = (self._parts_read if as_read else self._parts).get(key, {}).get(pod_uid)
        silence = self._staleness.get(key, {}).get(pod_uid)
        found = [] if part is None else [part]
        if silence is not None and silence.is_stale:
            found.append(stale_part(pod_uid))
        return found

    def listen(self, key: ServiceKey, listed: Sequence[Document]) -> None:
        """Note which of a service's reports have changed since the last look, on our own clock."""
        now = asyncio.get_running_loop().time()
        blind = missed_observations(self._looked.pop(key, None), now)
        before = self._last_seen.pop(key, {})
        self._staleness.pop(key, None)
        self._parts.pop(key, None)
        if not listed:
            return
        seen: dict[str, LastSeen] = {}
        found: dict[str, Staleness] = {}
        for metadata in listed:
            uid, version = metadata["uid"], metadata["resourceVersion"]
            seen[uid] = observe(before.get(uid), version, now, missed_observations=blind)
            silence = staleness(seen[uid], metadata.get("annotations") or {}, now)
            if silence is not None:
                owners = metadata.get("ownerReferences") or ()
                found.update((owner.get("uid", ""), silence) for owner in owners)
        self._last_seen[key], self._looked[key], self._staleness[key] = seen, now, found
        self._parts[key] = {
            owner.get("uid", ""): report_part(metadata)
            for metadata in listed
            for owner in metadata.get("ownerReferences") or ()
        }

    def _changed(self, listed: Sequence[Document]) -> list[Document]:
        return [
            metadata
            for metadata in listed
            if metadata["uid"] not in self._cached
            or self._cached[metadata["uid"]].version != content_version(metadata)
        ]

    async def _read_changed(self, client: KubeClient, listed: Sequence[Document]) -> set[str]:
        """Read what is not known; return the pods whose report could not be read."""
        changed = self._changed(listed)
        limit = asyncio.Semaphore(READS_AT_ONCE)
        unread: set[str] = set()

        async def read_one(metadata: Document) -> None:
            try:
                async with limit, asyncio.timeout(PATIENCE_S):
                    document = await client.get_report(metadata["namespace"], metadata["name"])
            except (ApiError, TimeoutError) as error:
                log.warning("report_not_read", report=metadata["name"], error=str(error) or "slow")
                owners = metadata.get("ownerReferences") or ()
                unread.update(owner.get("uid", "") for owner in owners)
                return
            if document is None:
                self.forget(metadata["uid"])
            else:
                self.offer(document)

        if not changed:
            return unread
        async with asyncio.TaskGroup() as group:
            for metadata in changed:
                group.create_task(read_one(metadata))
        return unread


def report_page_size(most_models: int) -> int:
    """Return the page size of a list of reports, given the most models in one of them."""
    return max(1, min(LARGEST_PIECE, MODELS_A_PIECE // max(most_models, 1)))


def page_size(most_models: int) -> int:
    """Return how many objects of any kind: small pieces of many small objects take too long."""
    return max(SMALLEST_PIECE, report_page_size(most_models))


def of_their_pods(
    reports: Iterable[ModelReport], pods: Iterable[Document]
) -> dict[str, ModelReport]:
    """Return the reports by the uid of the pod that owns each.

    A report counts only if it has the name of that pod: another one that gives the pod's uid as its
    owner's is a mistake or a lie, and garbage collection removes it soon.
    """
    pod_names = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in pods}
    return {
        uid: report
        for report in reports
        if (uid := report.pod_uid)
        and _is_of_its_pod(report)
        and pod_names.get(uid, report.metadata.name) == report.metadata.name
    }


def _is_of_its_pod(report: ModelReport) -> bool:
    return any(
        owner.kind == "Pod" and owner.name == report.metadata.name
        for owner in report.metadata.owner_references
    )
