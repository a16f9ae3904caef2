"""The survey: which parents there are, and whether a pass over each would see anything new.

Level-triggered means to look again and again, and nearly always to find nothing. Looking parent by
parent costs some seven requests for each of them; so the survey reads everything once, in lists of
metadata where nothing else is needed, and makes each parent's fingerprint. Ten thousand models of
two hundred parents are some 25 requests a minute instead of 1,400.

On the way it hears the heartbeats of all reports, so that no pass is needed to know who is alive.

The lists are not of one moment, and need not be: a fingerprint that is wrong by that costs a pass
that finds nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainedmodel_contract import names

from trainedmodel_operator.core.fingerprint import fingerprint, part_of
from trainedmodel_operator.core.state import ParentKey
from trainedmodel_operator.kube import KubeClient
from trainedmodel_operator.reports import ReportCache

Document = Mapping[str, Any]


class Survey:
    """Looks at everything."""

    def __init__(
        self, client: KubeClient, reports: ReportCache, *, namespaces: Sequence[str] = ()
    ) -> None:
        """Look at `namespaces`, or at all."""
        self._client = client
        self._reports = reports
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._models: set[str] = set()
        #: Most models of one parent, at the last look: what the longest report tells of.
        self.most_models = 0

    async def look(self) -> dict[ParentKey, str]:
        """Return the fingerprint of every parent that a model or a shard names, in order.

        Raises:
            ApiError: a list failed; nothing partial is returned.
        """
        parts: dict[ParentKey, list[str]] = defaultdict(list)
        models: set[str] = set()
        of_parent: Counter[ParentKey] = Counter()
        for namespace in self._namespaces:
            for version in await self._client.list_model_versions(namespace):
                parts[version.key].append(version.part)
                models.add(version.part)
                of_parent[version.key] += 1
            for shard in await self._client.list_shard_metadata(namespace):
                key = _shard_parent(shard)
                if key is not None:
                    parts[key].append(part_of(shard["metadata"]))
            pods: dict[str, list[ParentKey]] = {}
            for pod in await self._client.list_pod_metadata(namespace):
                pods[pod["metadata"]["uid"]] = list(_pod_parents(pod))
                for key in pods[pod["metadata"]["uid"]]:
                    if key in parts:
                        parts[key].append(part_of(pod["metadata"]))
            await self._hear(namespace, pods, parts)
        self._models = models
        self.most_models = max(of_parent.values(), default=0)
        return {key: fingerprint(parts[key]) for key in sorted(parts)}

    def has_seen(self, metadata: Document) -> bool:
        """Tell whether the last look saw a TrainedModel exactly as it is here."""
        return part_of(metadata) in self._models

    async def _hear(
        self,
        namespace: str | None,
        pods: Mapping[str, Sequence[ParentKey]],
        parts: Mapping[ParentKey, list[str]],
    ) -> None:
        """Let reports count for the parents of the pods that own them."""
        of_parent: dict[ParentKey, list[Document]] = defaultdict(list)
        for report in await self._client.list_report_metadata(namespace, None):
            for owner in report["metadata"].get("ownerReferences") or ():
                for key in pods.get(owner.get("uid", ""), ()):
                    of_parent[key].append(report["metadata"])
        for key, listed in of_parent.items():
            self._reports.listen(key, listed)
        for pod, keys in pods.items():
            for key in keys:
                if key in parts:
                    parts[key].extend(self._reports.parts(key, pod))


def _shard_parent(shard: Document) -> ParentKey | None:
    metadata = shard["metadata"]
    parent = metadata["labels"][names.PARENT_LABEL]
    known = metadata["name"] in names.shard_names(parent)
    return ParentKey(metadata["namespace"], parent) if known else None


def _pod_parents(pod: Document) -> Iterator[ParentKey]:
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    for parent in sorted({labels[one] for one in names.PARENT_POD_LABELS if labels.get(one)}):
        yield ParentKey(metadata["namespace"], parent)
