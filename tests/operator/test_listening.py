"""Where the operator's three listeners are reached: at both families, or the one that is there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from trainedmodel_devkit.ports import free_port
from trainedmodel_operator.core.health import Vitals
from trainedmodel_operator.core.injection.sidecar import InjectionSettings
from trainedmodel_operator.errors import ConfigurationError
from trainedmodel_operator.observability.listening import listen_everywhere
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.observability.metrics_endpoint import metrics_served
from trainedmodel_operator.observability.probes import probes_served
from trainedmodel_operator.webhook import pki
from trainedmodel_operator.webhook.server import serve_webhook

STANDBY = Vitals(
    leading_for_s=None,
    turned_s=0.5,
    resync_s=None,
    reached_s=0.5,
    is_injecting=None,
    resync_period_s=60,
)


class Here:
    """Certificates that are there, and never change."""

    def __init__(self) -> None:
        self.context = pki.new_context()
        self.has_begun = asyncio.Event()
        self.has_begun.set()

    async def run(self) -> None:
        await asyncio.Event().wait()


@asynccontextmanager
async def health(port: int) -> AsyncIterator[None]:
    async with probes_served(port, lambda: STANDBY):
        yield


@asynccontextmanager
async def metrics(port: int) -> AsyncIterator[None]:
    async with metrics_served(port, Metrics().registry):
        yield


@asynccontextmanager
async def webhook(port: int) -> AsyncIterator[None]:
    has_begun = asyncio.Event()
    settings = InjectionSettings(image="puller:test")
    serving = asyncio.create_task(
        serve_webhook(port, settings, Here(), has_begun=has_begun, linger_s=0)
    )
    begun = asyncio.create_task(has_begun.wait())
    try:
        async with asyncio.timeout(10):
            await asyncio.wait([begun, serving], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        yield
    finally:
        for task in (serving, begun):
            task.cancel()
        await asyncio.wait([serving, begun])


Listener = Callable[[int], AbstractAsyncContextManager[None]]
LISTENERS = pytest.mark.parametrize("listener", [health, metrics, webhook])


async def reached(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@LISTENERS
async def test_an_address_of_either_family_is_answered(listener: Listener) -> None:
    port = free_port()
    async with listener(port):
        assert await reached("127.0.0.1", port)
        assert await reached("::1", port) == socket.has_dualstack_ipv6()
    assert not await reached("127.0.0.1", port)


@LISTENERS
async def test_without_ipv6_the_other_family_is_answered(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    port = free_port()
    async with listener(port):
        assert await reached("127.0.0.1", port)
        assert not await reached("::1", port)


def test_an_ipv6_that_is_there_but_switched_off_is_not_insisted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create_server = socket.create_server

    def refuse_ipv6(address: tuple[str, int], **options: object) -> socket.socket:
        if address[0] == "::":
            raise OSError(99, "Cannot assign requested address")
        return create_server(address)

    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    monkeypatch.setattr(socket, "create_server", refuse_ipv6)
    with listen_everywhere(0, "--health-port") as listening:
        assert listening.family is socket.AF_INET


@LISTENERS
async def test_a_port_that_is_taken_is_named_with_its_flag(listener: Listener) -> None:
    with listen_everywhere(0, "--other-port") as taken:
        port = taken.getsockname()[1]
        words = f"cannot bind --{listener.__name__}-port {port}"
        with pytest.raises((ConfigurationError, ExceptionGroup)) as told:
            async with listener(port):
                pass
    refused = told.value
    while isinstance(refused, ExceptionGroup):
        refused = refused.exceptions[0]
    assert isinstance(refused, ConfigurationError)
    assert words in str(refused)
