"""Transport: when a request is sent, how it is sent, and how its answer is read.

`RequestGate` is the shell around `core.pacing.rate_limiter`. It admits requests by priority level,
and within a level in the order of arrival. A waiting request holds no resource. No level opens
before a more urgent one, so a flood of statuses cannot delay a shard.

`Transport` sends. Every request has a timeout. A request that the server refused *because of load*
(429, or 503 with `Retry-After`) was not carried out. Its priority level pauses for as long as the
server asks, and the transport sends the request again, a few times, so that a pass need not read
everything again. Any other failure goes to the caller at once, as one of `errors`: a write without
an answer may have been carried out, and only a new read can tell. The fence is checked before each
sending, after all waiting, because a write that waited too long is the one to stop.

No wait or failure is silent. Metrics count the seconds of waiting by priority level and the failed
requests by cause. The log has a line when a pause begins.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
import structlog
from kubernetes.aio import client as kubernetes_client
from trainedmodel_contract import names

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.pacing.rate_limiter import (
    DEFAULT_PAUSE_S,
    PriorityLevel,
    RateLimiter,
    pause_asked,
)
from trainedmodel_operator.core.words import api_words
from trainedmodel_operator.errors import (
    ApiError,
    Conflict,
    NamespaceEnds,
    NotFound,
    PatchNotApplied,
    Refused,
    Throttled,
    Unavailable,
    Unreachable,
)
from trainedmodel_operator.observability.metrics import Metrics

#: A list of a loaded API server takes its time; a single object does not.
LIST_TIMEOUT_S: Final = 30.0
TIMEOUT_S: Final = 10.0
#: How often one request is sent while the server asks to come back later.
ATTEMPTS: Final = 5
SHORTEST_PAUSE_S: Final = 0.1

JSON: Final = "application/json"
_SLACK_S: Final = 0.001
#: The cause that Kubernetes gives when something is created in a namespace that is being deleted.
_NAMESPACE_ENDS: Final = "NamespaceTerminating"

log = structlog.get_logger()


class RequestGate:
    """Lets requests through, the most urgent first, as the throttle allows."""

    def __init__(
        self,
        metrics: Metrics,
        limiter: RateLimiter | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._metrics = metrics
        self._limiter = limiter or RateLimiter()
        self._jitter = jitter
        self._numbers = itertools.count()
        self._queue: list[tuple[PriorityLevel, int, asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, level: PriorityLevel) -> None:
        """Wait for the turn of a request; returns at once where nothing is in its way."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        turn = loop.create_future()
        heapq.heappush(self._queue, (level, next(self._numbers), turn))
        self._admit()
        if turn.done():
            return
        try:
            await turn
        finally:
            self._metrics.count_throttled(level.name.lower(), loop.time() - began)

    def silence(self, level: PriorityLevel, pause_s: float) -> None:
        """Pause a priority level and all less urgent ones for so long, or a little longer."""
        now = asyncio.get_running_loop().time()
        if self._limiter.due(level, now) <= now:
            log.warning(
                "requests_rate_limited",
                priority_level=level.name.lower(),
                seconds=pause_s,
                error="rate limited by API server",
            )
        until = now + max(pause_s, SHORTEST_PAUSE_S) * (1 + self._jitter() / 10)
        self._limiter = self._limiter.paused(level, until)

    def unanswered(self) -> None:
        """Note a request without an answer: all priority levels pause a little."""
        now = asyncio.get_running_loop().time()
        self._limiter = self._limiter.unanswered(now, self._jitter())

    def answered(self) -> None:
        """Note an answer."""
        before, self._limiter = self._limiter, self._limiter.answered()
        if self._limiter is not before:
            self._admit()

    def _admit(self) -> None:
        """Let through all whose turn it is, and come back when the next one's is."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            level, _, turn = self._queue[0]
            if not turn.done():
                now = loop.time()
                due = self._limiter.due(level, now)
                if due > now + _SLACK_S:
                    self._timer = loop.call_at(due, self._admit)
                    return
                self._limiter = self._limiter.sent(level, now)
                turn.set_result(None)
            heapq.heappop(self._queue)


class Transport:
    """Sends requests, and turns the answers into documents or errors."""

    def __init__(
        self,
        api: kubernetes_client.ApiClient,
        metrics: Metrics,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        """Speak over `api`; `fence` is called before every write and raises if none may be sent."""
        self._api = api
        self._metrics = metrics
        self._fence = fence
        self._gate = RequestGate(metrics)

    async def request(
        self,
        level: PriorityLevel,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Document | list[Document] | None = None,
        accept: str = JSON,
        content_type: str = JSON,
        timeout_s: float = TIMEOUT_S,
    ) -> Document:
        """Send a request in its turn and return the document that answers it.

        Raises:
            ApiError: it did not succeed; see `errors`. Cancelled while it waits, it was not sent.
        """
        sending = await self._serialized(
            method, path, query, body, accept=accept, content_type=content_type
        )
        attempt = 0
        while True:
            attempt += 1
            await self._gate.enter(level)
            if method != "GET":
                self._fence()
            try:
                return await self._send(method, path, sending, timeout_s)
            except ApiError as error:
                self._metrics.count_api_error(level.name.lower(), error.cause)
                if not isinstance(error, Throttled):
                    raise
                self._gate.silence(level, error.retry_after_s)
                if attempt == ATTEMPTS:
                    raise

    async def request_once(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Document | None = None,
        content_type: str = JSON,
        timeout_s: float,
    ) -> Document:
        """Send a request at once, past rate limits and fence: the Lease has a pace of its own.

        Raises:
            ApiError: it did not succeed.
        """
        sending = await self._serialized(
            method, path, query, body, accept=JSON, content_type=content_type
        )
        return await self._send(method, path, sending, timeout_s)

    async def _serialized(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Document | list[Document] | None,
        *,
        accept: str,
        content_type: str,
    ) -> Any:
        return await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={
                "Accept": accept,
                "Content-Type": content_type,
                "User-Agent": names.MANAGED_BY,
            },
            body=body,
            auth_settings=["BearerToken"],
        )

    async def _send(self, method: str, path: str, sending: Any, timeout_s: float) -> Document:
        _, url, headers, content, _ = sending
        what = f"{method} {path}"
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._api.call_api(
                    method, url, headers, content, _request_timeout=timeout_s
                )
                raw: bytes = await answer.read()  # type: ignore[no-untyped-call]
        except TimeoutError as error:
            raise Unavailable(f"{what}: no answer in {timeout_s:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            self._gate.unanswered()
            raise Unreachable(f"{what}: {type(error).__name__} {error}") from error
        self._gate.answered()
        if not 200 <= answer.status < 300:
            raise read_error(what, answer.status, answer.headers, raw)
        try:
            document: Document = json.loads(raw)
        except ValueError as error:
            raise Unavailable(f"{what}: the answer is not JSON") from error
        return document


def read_error(what: str, status: int, headers: Mapping[str, str], raw: bytes) -> ApiError:
    """Return the error that an answer stands for; its words are fit for logs and statuses."""
    try:
        answer = json.loads(raw)
        said = str(answer.get("message", ""))
    except (ValueError, AttributeError):
        answer, said = {}, raw[:300].decode(errors="replace")
    said = api_words(said)
    message = f"{what}: {status} {said}"
    if status == 403 and _NAMESPACE_ENDS in _causes(answer):
        error: ApiError = NamespaceEnds(message, status)
    elif status == 422 and answer.get("details") == {}:
        # An object that breaks its schema has `details` that name it and its fields. A JSON patch
        # that could not be applied has none (measured with kube-apiserver 1.34).
        error = PatchNotApplied(message, status)
    else:
        error = _error(message, status, headers)
    error.said = said
    return error


def _causes(answer: Mapping[str, Any]) -> set[str]:
    """Return the reasons of the causes in a Status object."""
    try:
        return {str(cause["reason"]) for cause in answer["details"]["causes"]}
    except (KeyError, TypeError):
        return set()


def _error(message: str, status: int, headers: Mapping[str, str]) -> ApiError:
    pause = pause_asked(headers.get("Retry-After"), _date(headers))
    if status == 429 or (status == 503 and pause is not None):
        return Throttled(message, DEFAULT_PAUSE_S if pause is None else pause, status)
    if status == 404:
        return NotFound(message, status)
    if status in {409, 410}:
        return Conflict(message, status)
    if status >= 500:
        return Unavailable(message, status)
    return Refused(message, status)


def _date(headers: Mapping[str, str]) -> datetime:
    """Return the date of the answer, or the local time if it has none."""
    try:
        at = parsedate_to_datetime(headers.get("Date", ""))
    except ValueError:
        return datetime.now(UTC)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
