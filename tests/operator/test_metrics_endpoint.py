"""The endpoint of Prometheus: formats, compression, and an event loop that is never blocked."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Iterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from trainedmodel_devkit.ports import free_port
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.observability.metrics_endpoint import metrics_served

WRITES = 'trainedmodel_operator_writes_total{kind="status"} 1.0'


async def scrape(
    port: int, query: str = "", path: str = "/metrics", **headers: str
) -> tuple[int, str, str]:
    """Return status, content type and text of an answer."""
    url = f"http://127.0.0.1:{port}{path}{query}"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, answer.headers["Content-Type"], await answer.text()


def counted() -> Metrics:
    metrics = Metrics()
    metrics.count_write("status")
    return metrics


async def test_metrics_are_served_while_the_context_lasts() -> None:
    port = free_port()
    async with metrics_served(port, counted().registry):
        status, content_type, text = await scrape(port)
    assert status == 200
    assert content_type.startswith("text/plain")
    assert WRITES in text
    with pytest.raises(aiohttp.ClientConnectorError):
        await scrape(port)


async def test_port_zero_serves_nothing() -> None:
    async with metrics_served(0, counted().registry):
        pass


async def test_only_the_path_of_the_metrics_has_them() -> None:
    port = free_port()
    async with metrics_served(port, counted().registry):
        assert (await scrape(port, path="/"))[0] == 404


async def test_the_format_is_the_one_that_the_client_accepts() -> None:
    port = free_port()
    async with metrics_served(port, counted().registry):
        _, content_type, text = await scrape(
            port, Accept="application/openmetrics-text; version=1.0.0"
        )
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


async def test_a_client_gets_compressed_metrics_if_it_accepts_them() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    async with (
        metrics_served(port, counted().registry),
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        async with session.get(url, headers={"Accept-Encoding": "gzip"}) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert WRITES in gzip.decompress(await answer.read()).decode()
        async with session.get(url, headers={"Accept-Encoding": "identity"}) as answer:
            assert WRITES in await answer.text()


async def test_a_scrape_may_ask_for_some_metrics_only() -> None:
    port = free_port()
    async with metrics_served(port, counted().registry):
        _, _, text = await scrape(port, "?name[]=trainedmodel_operator_leader")
    assert "trainedmodel_operator_leader" in text
    assert "trainedmodel_operator_writes" not in text


class Slow(Collector):
    """A registry's collector that renders until it is released."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.started, self.released = asyncio.Event(), threading.Event()
        self.thread = 0

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        self.thread = threading.get_ident()
        self._loop.call_soon_threadsafe(self.started.set)
        self.released.wait(30)
        return iter(())


@pytest.mark.timeout(60)
async def test_the_event_loop_goes_on_while_metrics_are_rendered() -> None:
    registry, slow, port = CollectorRegistry(), Slow(), free_port()
    registry.register(slow)
    async with metrics_served(port, registry):
        scraping = asyncio.create_task(scrape(port))
        try:
            await slow.started.wait()
            assert not scraping.done()
        finally:
            slow.released.set()
        assert (await scraping)[0] == 200
    assert slow.thread != threading.get_ident()
