"""The endpoint of Prometheus: `/metrics`, on every replica, from its start to its end.

Thousands of series take many milliseconds to render. So they are rendered and compressed in a
thread, which belongs to this endpoint alone: nothing that the operator waits for delays a scrape.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from trainedmodel_operator.observability.http_server import http_served

_GZIP: Final = "gzip"
#: The parameter by which a scrape asks for some metrics only.
_NAMES: Final = "name[]"


@asynccontextmanager
async def metrics_served(port: int, registry: CollectorRegistry) -> AsyncIterator[None]:
    """Serve the metrics of a registry while the context lasts; not at all if `port` is 0.

    Raises:
        ConfigurationError: the port cannot be bound.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")

    async def answer(request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
        is_compressed = _GZIP in request.headers.get(hdrs.ACCEPT_ENCODING, "")
        names = request.query.getall(_NAMES, [])
        body, content_type = await asyncio.get_running_loop().run_in_executor(
            pool, _render, registry, accept, names, is_compressed
        )
        headers = {hdrs.CONTENT_TYPE: content_type}
        if is_compressed:
            headers[hdrs.CONTENT_ENCODING] = _GZIP
        return web.Response(body=body, headers=headers)

    try:
        async with http_served(port, "--metrics-port", {"/metrics": answer}):
            yield
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _render(
    registry: CollectorRegistry, accept: str, names: Sequence[str], is_compressed: bool
) -> tuple[bytes, str]:
    """Return the metrics in a format that the client accepts, and the name of the format."""
    encode, content_type = choose_encoder(accept)
    body = encode(registry.restricted_registry(names) if names else registry)
    return (gzip.compress(body) if is_compressed else body), content_type
