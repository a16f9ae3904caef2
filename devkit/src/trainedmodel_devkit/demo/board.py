"""The TrainedModels of a namespace, kept up to date by a watch, and waiting for what they say.

One watch feeds both the live table and every wait: what the demo waits for is exactly what the user
sees, and no state is missed between two polls.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from trainedmodel_contract.names import GROUP, VERSION
from trainedmodel_contract.trainedmodel import (
    PLURAL,
    READY,
    Condition,
    SpecError,
    TrainedModel,
    parse_trained_model,
)

from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.demo.errors import StepFailed
from trainedmodel_devkit.nodeapi import TRANSIENT

Models = Mapping[str, TrainedModel]

_WATCH_S = 240


def ready_condition(model: TrainedModel) -> Condition | None:
    """Return the condition Ready, if there is one yet."""
    conditions = model.status.conditions or []
    return next((one for one in conditions if one.type == READY), None)


def is_ready(model: TrainedModel) -> bool:
    """Tell whether every copy serves what the spec says now, not what it said before."""
    ready = ready_condition(model)
    return (
        ready is not None
        and ready.status == "True"
        and ready.observed_generation == model.metadata.generation
    )


class Board:
    """The models of one namespace; `follow` must run for it to be true."""

    def __init__(
        self, control_plane: ControlPlane, namespace: str, on_change: Callable[[Models], None]
    ) -> None:
        configuration = client.Configuration(host=control_plane.server)
        configuration.ssl_ca_cert = str(control_plane.ca_file)
        configuration.api_key["authorization"] = f"Bearer {control_plane.token}"
        self._client: Any = client.ApiClient(configuration)
        self._api: Any = client.CustomObjectsApi(self._client)
        self._namespace = namespace
        self._on_change = on_change
        self._changed = asyncio.Condition()
        self._models: dict[str, TrainedModel] = {}
        self._fault: Exception | None = None

    def __getitem__(self, name: str) -> TrainedModel:
        """Return a model.

        Raises:
            StepFailed: there is no such model.
        """
        if name not in self._models:
            raise StepFailed(f"there is no TrainedModel {name} in namespace {self._namespace}")
        return self._models[name]

    @property
    def models(self) -> Models:
        """All models by name."""
        return self._models

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def follow(self) -> None:
        """Keep the board true for ever: list, watch from there, start over when that is cut."""
        while True:
            try:
                revision = await self._list()
                async for kind, document in self._watch(revision):
                    await self._apply(kind, document)
            except TRANSIENT:
                await asyncio.sleep(0.2)

    async def until(self, holds: Callable[[Models], bool], what: str, timeout_s: float) -> None:
        """Wait until the models are as wished.

        Raises:
            StepFailed: they were not, within the time.
            Exception: what `give_up` was told.
        """
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._fault or holds(self._models))
            if self._fault is not None:
                raise self._fault
        except TimeoutError:
            seen = "; ".join(map(describe, self._models.values())) or "no TrainedModels"
            raise StepFailed(f"waited {timeout_s:.0f} s for {what}, and saw {seen}") from None

    async def give_up(self, fault: Exception) -> None:
        """End every wait, now and later, with a fault: what is waited for cannot come any more."""
        async with self._changed:
            self._fault = fault
            self._changed.notify_all()

    async def _list(self) -> str:
        document = await self._read()
        async with self._changed:
            self._models = {}
            for item in document["items"]:
                self._put(item)
            self._announce()
        return str(document["metadata"]["resourceVersion"])

    async def _apply(self, kind: str, document: dict[str, Any]) -> None:
        async with self._changed:
            if kind == "DELETED":
                self._models.pop(document["metadata"]["name"], None)
            else:
                self._put(document)
            self._announce()

    def _put(self, document: dict[str, Any]) -> None:
        with contextlib.suppress(SpecError):  # the API server let it in; here it is not shown
            self._models[document["metadata"]["name"]] = parse_trained_model(document)

    def _announce(self) -> None:
        self._on_change(dict(sorted(self._models.items())))
        self._changed.notify_all()

    async def _read(self) -> dict[str, Any]:
        async with await self._request() as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise ApiException(answer.status, text)
            return dict(json.loads(text))

    async def _watch(self, revision: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        stream = await self._request(
            watch=True, resource_version=revision, timeout_seconds=_WATCH_S
        )
        async with stream:
            if stream.status >= 400:
                raise ApiException(stream.status, await stream.text())
            async for line in stream.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                yield event["type"], event["object"]

    async def _request(self, **options: Any) -> Any:
        call = self._api.list_namespaced_custom_object_without_preload_content
        return await call(GROUP, VERSION, self._namespace, PLURAL, **options)


def describe(model: TrainedModel) -> str:
    """Say in a few words where a model is."""
    status = model.status
    reason = f" ({status.reason})" if status.reason else ""
    copies = f", {status.copies.summary} copies ready" if status.copies else ""
    return f"{model.metadata.name}: {status.state or 'no status yet'}{reason}{copies}"
