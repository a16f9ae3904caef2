"""The watches: runs kopf, and restarts it when it ends.

kopf watches TrainedModels and ModelReports and calls the handlers. Nothing else of kopf is used.
Watches break in many ways, and kopf recovers from most: it reconnects when a stream is cut, lists
again on a 410, and retries without end while the server does not answer. It ends the *process* on
the others: an ERROR of 500 or 504 inside a stream, a 410 between two pages of a list, a kind that
is gone. All of these happen during an upgrade of the control plane, on all replicas at once, and
after three ends in a row the kubelet delays the next start by minutes. So here kopf is restarted
within the process, with back-off. Passes, status writes, Lease and webhook continue meanwhile, and
the resync finds the changes that the watches missed. Each restart is counted, and waits for an
early resync to succeed: that proves that the API server and both kinds are there. (For a missing
kind kopf would wait in silence.)

Settings that differ from kopf's defaults, and the reasons:

- A 5xx, 403 or 429 on a watched kind is retried without end (default: 54 s, then kopf ends).
- The server closes a stream after `STREAM_S`, and the client drops it after `SILENCE_S` without
  data (default: 70 s). The API server sends a bookmark two seconds before it closes a stream, so
  each stream starts where the last one ended. A half-open stream is found after 30 s. An idle
  operator sends five requests a minute for that.
- Lists come in pages (`page_size`), small ones where reports are long: a hundred reports of 5,000
  models are 30 MB, and five times that while they are parsed. Pages are read one after the other,
  so small pages of many small objects slow down a start.
- kopf's worker of an object ends after `IDLE_S` (default: 5 s). Until then it holds the object's
  last document, and a hundred of those reports are 250 MB.
- No essence of an object is made. It is a deep copy for each event, and no handler uses it.
- A list, and the first byte of any answer, may take a minute (default: five).

`kopf.operator` is not used, only `spawn_tasks`. `kopf.operator` waits five seconds for every task
of the process that was started after it, including the operator's own, and then cancels them. Tasks
that kopf's tasks have started and left behind are recognised by the file of their code.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import kopf
import structlog
from kopf._core.engines.peering import Identity
from trainedmodel_contract import names

from trainedmodel_operator.api.report_cache import SMALLEST_PIECE, page_size
from trainedmodel_operator.core.pacing.backoff import pause_s
from trainedmodel_operator.observability.metrics import Metrics

STREAM_S: Final = 25
SILENCE_S: Final = 30.0
CONNECT_S: Final = 5.0
ANSWER_S: Final = 60.0
IDLE_S: Final = 0.25

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
#: Watches that ran for so long were healthy: the next pause is the first one again.
WELL_AFTER_S: Final = 60.0
#: How long kopf may take over its end.
LAST_WORDS_S: Final = 3.0

#: kopf would ask the system for the name of the user, and end where there is none: on platforms
#: that run each namespace's containers as a number of its own.
IDENTITY: Final = Identity(names.MANAGED_BY)

_KOPF: Final = f"{Path(kopf.__file__).parent}{os.sep}"

log = structlog.get_logger()


class Backoffs:
    """Pauses between tries, without end: doubling, with jitter. Each iteration starts over."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter

    def __iter__(self) -> Iterator[float]:
        for failures in itertools.count():
            yield pause_s(
                failures, self._jitter(), first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S
            )


class KopfRunner:
    """Keeps kopf watching, until cancelled."""

    def __init__(
        self,
        make_registry: Callable[[], kopf.OperatorRegistry],
        metrics: Metrics,
        *,
        namespaces: Sequence[str],
        most_models: Callable[[], int] = lambda: 0,
        begun: Callable[[], None] = lambda: None,
        broken: Callable[[], Awaitable[None]],
    ) -> None:
        """Watch `namespaces`, or all; `most_models` tells how many models one report may hold.

        `begun` is called each time that kopf has begun, and has put its signal handlers in the
        place of whatever was there. `broken` is called when it has ended by itself, and waits until
        it makes sense to restart.
        """
        self._make_registry = make_registry
        self._metrics = metrics
        self._namespaces = tuple(namespaces)
        self._most_models = most_models
        self._begun = begun
        self._broken = broken

    async def run(self) -> None:
        """Watch until cancelled; restart kopf whenever it ends."""
        clock = asyncio.get_running_loop().time
        pauses = iter(Backoffs())
        while True:
            began = clock()
            cause = await self._watch()
            if clock() - began > WELL_AFTER_S:
                pauses = iter(Backoffs())
            pause = next(pauses)
            self._metrics.count_watch_restart(cause)
            log.warning("watches_restarted", error=cause, seconds=round(pause, 1))
            await asyncio.sleep(pause)
            await self._broken()

    async def _watch(self) -> str:
        """Run kopf until it ends; return the word for why it did."""
        tasks = await kopf.spawn_tasks(
            registry=self._make_registry(),
            settings=kopf_settings(page_size(self._most_models())),
            identity=IDENTITY,
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
        )
        self._begun()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            errors = [error for task in done if (error := _error_of(task)) is not None]
        finally:
            await _end(tasks)
            await _end(_left_behind())
        return type(errors[0]).__name__ if errors else "Ended"


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    done, _ = await asyncio.wait(tasks, timeout=LAST_WORDS_S)
    for task in done:
        _error_of(task)  # looked at, so that asyncio does not complain; kopf has logged it


def _left_behind() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if _file(task).startswith(_KOPF)}


def _file(task: asyncio.Task[Any]) -> str:
    code = getattr(task.get_coro(), "cr_code", None)
    return "" if code is None else str(code.co_filename)


class _NoEssence(kopf.DiffBaseStorage):
    """Keeps nothing of objects to compare them with."""

    def build(
        self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None
    ) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        pass


def kopf_settings(piece: int = SMALLEST_PIECE) -> kopf.OperatorSettings:
    """Return how kopf runs here; see the top of this module."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # each event would be a POST
    settings.scanning.disabled = True  # the kinds are known, and CRDs need no watching
    settings.process.ultimate_exiting_timeout = None  # else kopf's end kills the process, later
    settings.networking.error_backoffs = Backoffs()
    settings.networking.connect_timeout = CONNECT_S
    settings.networking.request_timeout = ANSWER_S
    settings.persistence.diffbase_storage = _NoEssence()
    settings.watching.chunk_size = piece
    settings.queueing.idle_timeout = IDLE_S
    settings.watching.server_timeout = STREAM_S
    settings.watching.inactivity_timeout = SILENCE_S
    return settings
