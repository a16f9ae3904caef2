"""InferenceServices: the URL of a service, where KServe is installed.

A service is a name on pods. A KServe InferenceService of that name changes nothing about placement
or serving. It only has the URL for `status.url`. So no fault of this kind may cost a pass: if an
object cannot be read, its URL is *unknown*, and the status keeps the last one.

- The kind is not installed (404 for the list): no request for any service for `ABSENT_S`.
- Not allowed (403), or another refusal: the same, for that namespace.
- Slow or broken, which for this kind usually means its conversion webhook: no request for this
  service for `BROKEN_S`, and none for the whole namespace if a second service fails meanwhile. A
  single answer may take at most `PATIENCE_S`.

The request is a list that selects one name, not a get: an empty list means that *this service* does
not exist, and a 404 means that the *kind* does not.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import structlog

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.state import ServiceKey, ServiceView
from trainedmodel_operator.core.status.urls import service_url
from trainedmodel_operator.errors import ApiError, NotFound, TerminalError

ABSENT_S: Final = 300.0
BROKEN_S: Final = 30.0
PATIENCE_S: Final = 2.0

log = structlog.get_logger()


class ServiceClient(Protocol):
    """The requests of this module."""

    async def list_inference_services(self, namespace: str, name: str) -> list[Document]:
        """List the InferenceService of this name: one or none."""
        ...


class InferenceServices:
    """Reads InferenceServices, and knows when not to."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client
        self._absent_until = float("-inf")
        self._quiet_until: dict[str, float] = {}
        self._broken_until: dict[ServiceKey, float] = {}

    async def read(self, key: ServiceKey) -> ServiceView:
        """Return what is known of a service's InferenceService; never fails."""
        now = asyncio.get_running_loop().time()
        if now < self._absent_until:
            return ServiceView()
        quiet_until = max(
            self._quiet_until.get(key.namespace, now), self._broken_until.get(key, now)
        )
        if now < quiet_until:
            return ServiceView(is_known=False)
        try:
            async with asyncio.timeout(PATIENCE_S):
                found = await self._client.list_inference_services(key.namespace, key.service)
        except NotFound:
            self._absent_until = asyncio.get_running_loop().time() + ABSENT_S
            log.info(
                "inference_services_absent", error="the kind InferenceService is not installed"
            )
            return ServiceView()
        except (ApiError, TimeoutError) as error:
            self._leave_alone(key, error)
            return ServiceView(is_known=False)
        self._quiet_until.pop(key.namespace, None)
        self._broken_until.pop(key, None)
        if not found:
            return ServiceView()
        return ServiceView(exists=True, url=service_url(found[0].get("status")))

    def _leave_alone(self, key: ServiceKey, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        self._quiet_until = {
            name: until for name, until in self._quiet_until.items() if until > now
        }
        self._broken_until = {one: at for one, at in self._broken_until.items() if at > now}
        is_refused = isinstance(error, TerminalError)
        pause = ABSENT_S if is_refused else BROKEN_S
        is_first = not any(one.namespace == key.namespace for one in self._broken_until)
        self._broken_until[key] = now + pause
        if key.namespace not in self._quiet_until:
            log.warning(
                "inference_service_not_read",
                key=str(key),
                error_type=error.cause if isinstance(error, ApiError) else "slow",
                error=str(error),
                seconds=pause,
            )
        if is_refused or not is_first:
            self._quiet_until[key.namespace] = now + pause
