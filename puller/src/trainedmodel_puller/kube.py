"""The three calls that a puller makes to the Kubernetes API: read, create, patch its own report.

The official client does them. It is imported late and in a thread: it costs a second and 40 MB,
and the first model should not wait for that.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from trainedmodel_contract import modelreport, names

from trainedmodel_puller.errors import PullerError

_TIMEOUT_S: Final = 10.0
_MERGE_PATCH: Final = "application/merge-patch+json"
_FIELD_MANAGER: Final = "trainedmodel-puller"


class ReportGone(PullerError):
    """The report does not exist (any more)."""


class ReportClient:
    """Speaks to the API server as the pod's service account.

    Args:
        namespace: The pod's.
        account_dir: Folder with `token` and `ca.crt`, as a kubelet mounts it.
    """

    def __init__(self, namespace: str, account_dir: Path) -> None:
        self._namespace = namespace
        self._account_dir = account_dir
        self._api: Any = None
        self._client: Any = None

    async def _ready(self) -> Any:
        if self._api is None:
            client = await asyncio.to_thread(import_module, "kubernetes.aio.client")
            config = await asyncio.to_thread(
                import_module, "kubernetes.aio.config.incluster_config"
            )
            configuration = client.Configuration()
            loader = config.InClusterConfigLoader(
                token_filename=str(self._account_dir / "token"),
                cert_filename=str(self._account_dir / "ca.crt"),
            )
            await asyncio.to_thread(loader.load_and_set, configuration)
            self._client = await asyncio.to_thread(client.ApiClient, configuration)
            self._api = client.CustomObjectsApi(self._client)
        return self._api

    def _where(self) -> dict[str, Any]:
        return {
            "group": names.GROUP,
            "version": names.VERSION,
            "namespace": self._namespace,
            "plural": modelreport.PLURAL,
            "_request_timeout": _TIMEOUT_S,
        }

    async def read(self, name: str) -> dict[str, Any] | None:
        """Return the report, or None when there is none."""
        api = await self._ready()
        try:
            document: dict[str, Any] = await api.get_namespaced_custom_object(
                name=name, **self._where()
            )
        except Exception as error:
            if _status(error) == 404:
                return None
            raise
        return document

    async def create(self, document: dict[str, Any]) -> None:
        """Create the report."""
        api = await self._ready()
        await api.create_namespaced_custom_object(
            body=document, field_manager=_FIELD_MANAGER, **self._where()
        )

    async def patch(self, name: str, patch: dict[str, Any]) -> None:
        """Merge a patch into the report.

        Raises:
            ReportGone: there is none.
        """
        api = await self._ready()
        try:
            await api.patch_namespaced_custom_object(
                name=name,
                body=patch,
                field_manager=_FIELD_MANAGER,
                _content_type=_MERGE_PATCH,
                **self._where(),
            )
        except Exception as error:
            if _status(error) == 404:
                raise ReportGone(name) from error
            raise

    async def close(self) -> None:
        """Let go of connections."""
        if self._client is not None:
            await self._client.close()


def _status(error: Exception) -> int | None:
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None
