"""Namespaces: which of those in `--namespace` can be read, and the handling of the others.

If namespaces are named, each is read by itself: "never write from a partial view" (O1) holds for
each separately. A namespace that cannot be read (it was deleted, its Role is gone, one kind in it
is refused) is left out of that survey as a whole. The others are served. The log reports it once
and a metric shows it. Each following survey tries again. When it can be read again, all its
services are checked.

- *Refused* (403, 404): no passes over its services until a survey succeeds, because each would be
  refused as well.
- *Trouble* (no answer, a 5xx): it is left out of this survey only, and the next one comes earlier.

If the operator may read all namespaces, a list of a missing namespace is empty instead of refused.
So an empty namespace is checked by a dry run that creates a ConfigMap in it. This needs no further
right.

If all namespaces are served, there is one list of each kind, and a survey succeeds or fails as a
whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Final, Protocol, TypeVar

import structlog

from trainedmodel_operator.core.pacing.backoff import doubled_s
from trainedmodel_operator.core.words import shape
from trainedmodel_operator.errors import ApiError, NotFound, NothingReadable, TerminalError
from trainedmodel_operator.observability.metrics import Metrics

#: So many are looked at together: one that does not answer delays few others.
LOOKS_AT_ONCE: Final = 4
FIRST_RETRY_S: Final = 2.0

T = TypeVar("T")

log = structlog.get_logger()


class NamespaceClient(Protocol):
    """The requests of this module."""

    async def namespace_exists(self, namespace: str) -> bool:
        """Tell whether there is a namespace of this name."""
        ...


class Namespaces:
    """The namespaces that are served."""

    def __init__(
        self, client: NamespaceClient, metrics: Metrics, served: Sequence[str] = ()
    ) -> None:
        """Serve these, or all; `left_out`, once set, is called for each that cannot be read."""
        self._client = client
        self._metrics = metrics
        self.served: Sequence[str | None] = served or (None,)
        self.left_out: Callable[[str], None] = lambda namespace: None
        self._refused: set[str] = set()
        self._troubled: set[str] = set()
        self._told: dict[str, str] = {}
        self._known_empty: set[str] = set()
        self._troubles = 0

    def is_readable(self, namespace: str) -> bool:
        """Tell whether passes over the services of a namespace make sense."""
        return namespace not in self._refused

    @property
    def look_again_in_s(self) -> float:
        """Seconds until the next survey because of namespaces in trouble."""
        if not self._troubled:
            return inf
        return doubled_s(self._troubles - 1, first_s=FIRST_RETRY_S, longest_s=inf)

    async def each(
        self, look: Callable[[str | None], Awaitable[T]], is_empty: Callable[[T], bool]
    ) -> list[T]:
        """Look at each namespace; return what was found in those that can be read.

        Raises:
            NothingReadable: all were refused.
            ApiError: none answered; or all are served together, and a list failed.
        """
        if self.served == (None,):
            return [await look(None)]
        limit = asyncio.Semaphore(LOOKS_AT_ONCE)
        found: dict[str, T] = {}
        errors: dict[str, ApiError] = {}

        async def look_at(namespace: str) -> None:
            async with limit:
                try:
                    one = await look(namespace)
                    await self._prove(namespace, is_empty(one))
                    found[namespace] = one
                except ApiError as error:
                    errors[namespace] = error

        async with asyncio.TaskGroup() as group:
            for namespace in self.served:
                group.create_task(look_at(str(namespace)))
        self._note(found, errors)
        if errors and not found:
            raise _nothing(errors)
        return [found[str(one)] for one in self.served if one in found]

    async def _prove(self, namespace: str, is_empty: bool) -> None:
        """Find out whether a namespace in which nothing was found is there at all.

        Raises:
            NotFound: it is not.
        """
        if not is_empty:
            self._known_empty.discard(namespace)
        elif namespace not in self._known_empty:
            if not await self._client.namespace_exists(namespace):
                raise NotFound(f"namespace {namespace} does not exist", 404)
            self._known_empty.add(namespace)

    def _note(self, found: dict[str, T], errors: dict[str, ApiError]) -> None:
        for namespace in found:
            if self._told.pop(namespace, None) is not None:
                log.info("namespace_served_again", namespace=namespace)
            self._metrics.set_readable(namespace, True)
        for namespace, error in errors.items():
            self._known_empty.discard(namespace)
            self._metrics.set_readable(namespace, False)
            words = shape(str(error))
            if self._told.get(namespace) != words:
                self._told[namespace] = words
                _tell(namespace, error)
        refused = {one for one, error in errors.items() if isinstance(error, TerminalError)}
        news, self._refused = refused - self._refused, refused
        for namespace in sorted(news):
            self.left_out(namespace)
        self._troubled = set(errors) - refused
        self._troubles = self._troubles + 1 if self._troubled else 0


def _nothing(errors: dict[str, ApiError]) -> ApiError:
    trouble = [error for error in errors.values() if not isinstance(error, TerminalError)]
    if trouble:
        return trouble[0]
    words = "; ".join(str(error) for error in errors.values())
    return NothingReadable(f"none of the namespaces in --namespace can be read: {words}"[:1000])


def _tell(namespace: str, error: ApiError) -> None:
    log.warning(
        "namespace_left_out",
        namespace=namespace,
        error_type=error.cause,
        error=str(error),
        todo="create the namespace, grant the operator its Role there, or remove it from "
        "--namespace; each resync tries again",
    )
