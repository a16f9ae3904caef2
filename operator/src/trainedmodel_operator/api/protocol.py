"""The interface to the Kubernetes API, as the operator needs it.

The shell depends on this protocol only. `client` implements it. Tests that must force a fault or a
delay implement it in memory. All other tests use a real API server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.shards.documents import ShardWrite
from trainedmodel_operator.core.state import ServiceKey


class ModelVersion(NamedTuple):
    """The service of a TrainedModel, and the model's part of its fingerprint."""

    key: ServiceKey
    part: str


def as_it_is(item: Document) -> Document:
    """Keep an item of a list."""
    return item


class KubeClient(Protocol):
    """The requests of the operator. `namespace` None: all namespaces."""

    async def list_models(
        self,
        namespace: str | None,
        service: str | None,
        *,
        keep: Callable[[Document], Any] = as_it_is,
    ) -> list[Any]:
        """List TrainedModels, of one service or all; of each what `keep` returns."""
        ...

    async def list_model_versions(self, namespace: str | None) -> list[ModelVersion]:
        """List all TrainedModels that name a service, without keeping their content."""
        ...

    async def list_shards(
        self,
        namespace: str | None,
        service: str | None,
        *,
        keep: Callable[[Document], Any] = as_it_is,
    ) -> list[Any]:
        """List the shards of one service or all, by our labels; of each what `keep` returns."""
        ...

    async def list_shard_metadata(self, namespace: str | None) -> list[Document]:
        """List all shards without their data."""
        ...

    async def get_config_map(self, namespace: str, name: str) -> Document | None:
        """Read one ConfigMap, whosever it is; None if there is none."""
        ...

    async def list_pods(self, namespace: str | None, service: str | None) -> list[Document]:
        """List the pods that carry a puller: of one service, under either label, or all."""
        ...

    async def list_pod_metadata(self, namespace: str | None) -> list[Document]:
        """List all pods that carry a puller, without spec and status."""
        ...

    async def list_report_metadata(
        self, namespace: str | None, service: str | None
    ) -> list[Document]:
        """List the metadata of reports, of one service or all."""
        ...

    async def list_reports(
        self, namespace: str | None, *, page_size: int, keep: Callable[[Document], Any]
    ) -> list[Any]:
        """List reports with all that they say, so many at once; of each what `keep` returns."""
        ...

    async def get_report(self, namespace: str, name: str) -> Document | None:
        """Read one report; None if there is none."""
        ...

    async def write_shard(self, namespace: str, write: ShardWrite) -> None:
        """Carry out one shard write. One that deletes what is gone already has succeeded."""
        ...

    async def annotate_pod(self, namespace: str, name: str, value: str) -> None:
        """Set the pod's config annotation."""
        ...

    async def write_status(self, namespace: str, name: str, uid: str, status: Document) -> None:
        """Replace the status of the TrainedModel that has this uid.

        Raises:
            NotFound: it is gone, or another object has its name.
        """
        ...

    async def namespace_exists(self, namespace: str) -> bool:
        """Tell whether there is a namespace of this name."""
        ...
