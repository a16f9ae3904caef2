"""The inventory: lists all services, and tells whether a pass over each would see a change.

A level-triggered operator checks again and again, and nearly always finds nothing. Some seven
requests for each service would be too many. So the inventory lists everything once, as metadata
where that is enough, and makes a fingerprint of each service. Ten thousand models in two hundred
services cost some 25 requests a minute instead of 1,400.

The same lists carry the heartbeats of all reports, so liveness of pullers costs no pass.

The lists are not of one moment, and need not be: a fingerprint that is wrong for this reason costs
a pass that finds nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from trainedmodel_contract import names

from trainedmodel_operator.api.protocol import KubeClient, ModelVersion
from trainedmodel_operator.api.report_cache import ReportCache
from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.fingerprint import fingerprint, part_of
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.reconcile.namespaces import Namespaces


@dataclass
class Listing:
    """All that there is, as it was listed; of shards, pods and reports the metadata counts."""

    models: list[ModelVersion] = field(default_factory=list)
    shards: list[Document] = field(default_factory=list)
    pods: list[Document] = field(default_factory=list)
    reports: list[Document] = field(default_factory=list)

    def is_empty(self) -> bool:
        """Tell whether there is nothing at all."""
        return not (self.models or self.shards or self.pods or self.reports)


def merged(parts: Iterable[Listing]) -> Listing:
    """Return the lists of several namespaces as one."""
    whole = Listing()
    for part in parts:
        whole.models += part.models
        whole.shards += part.shards
        whole.pods += part.pods
        whole.reports += part.reports
    return whole


class Inventory:
    """Surveys all services."""

    def __init__(
        self, client: KubeClient, reports: ReportCache, namespaces: Namespaces | None = None
    ) -> None:
        """Look at `namespaces`, or at all."""
        self._client = client
        self._reports = reports
        self.namespaces = namespaces or Namespaces(client, Metrics())
        self._models: set[str] = set()
        #: Most models of one service at the last survey: those of the longest report.
        self.most_models = 0

    async def look(self) -> dict[ServiceKey, str]:
        """Return the fingerprint of every service that a model or a shard names, in order.

        Services in namespaces that cannot be read are left out.

        Raises:
            ApiError: no namespace could be read.
        """
        return self.take(merged(await self.namespaces.each(self._list, Listing.is_empty)))

    async def _list(self, namespace: str | None) -> Listing:
        return Listing(
            models=await self._client.list_model_versions(namespace),
            shards=await self._client.list_shard_metadata(namespace),
            pods=await self._client.list_pod_metadata(namespace),
            reports=await self._client.list_report_metadata(namespace, None),
        )

    def take(self, lists: Listing) -> dict[ServiceKey, str]:
        """Make the fingerprints of the listed services."""
        parts: dict[ServiceKey, list[str]] = defaultdict(list)
        of_parent: Counter[ServiceKey] = Counter()
        for version in lists.models:
            parts[version.key].append(version.part)
            of_parent[version.key] += 1
        for shard in lists.shards:
            key = shard_parent(shard)
            if key is not None:
                parts[key].append(part_of(shard["metadata"]))
        pods: dict[str, list[ServiceKey]] = {}
        for pod in lists.pods:
            pods[pod["metadata"]["uid"]] = list(pod_parents(pod))
            for key in pods[pod["metadata"]["uid"]]:
                if key in parts:
                    parts[key].append(part_of(pod["metadata"]))
        self._hear(lists.reports, pods, parts)
        self._models = {version.part for version in lists.models}
        self.most_models = max(of_parent.values(), default=0)
        return {key: fingerprint(parts[key]) for key in sorted(parts)}

    def has_seen(self, metadata: Document) -> bool:
        """Tell whether the last look saw a TrainedModel exactly as it is here."""
        return part_of(metadata) in self._models

    def _hear(
        self,
        reports: Sequence[Document],
        pods: Mapping[str, Sequence[ServiceKey]],
        parts: Mapping[ServiceKey, list[str]],
    ) -> None:
        """Let reports count for the services of the pods that own them."""
        of_parent: dict[ServiceKey, list[Document]] = defaultdict(list)
        for report in reports:
            for owner in report["metadata"].get("ownerReferences") or ():
                for key in pods.get(owner.get("uid", ""), ()):
                    of_parent[key].append(report["metadata"])
        for key, listed in of_parent.items():
            self._reports.listen(key, listed)
        for pod, keys in pods.items():
            for key in keys:
                if key in parts:
                    parts[key].extend(self._reports.parts(key, pod))


def shard_parent(shard: Document) -> ServiceKey | None:
    """Return whose shard a ConfigMap with our labels is; None if it has no shard's name."""
    metadata = shard["metadata"]
    service = metadata["labels"][names.PARENT_LABEL]
    known = metadata["name"] in names.shard_names(service)
    return ServiceKey(metadata["namespace"], service) if known else None


def pod_parents(pod: Document) -> Iterator[ServiceKey]:
    """Return the services that a pod serves: each label may name one."""
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    for service in sorted({labels[one] for one in names.PARENT_POD_LABELS if labels.get(one)}):
        yield ServiceKey(metadata["namespace"], service)
