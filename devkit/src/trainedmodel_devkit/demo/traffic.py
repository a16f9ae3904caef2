"""Constant requests to some servers, and what came of them.

"Never interrupted" is a claim about every single request, so every answer is looked at: an error,
no answer in time, and an answer that is neither the old nor the new model's are failures alike. The
pauses leave the processors to the servers; the demo is no load test.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

import aiohttp

from trainedmodel_devkit.demo.catalog import Exhibit
from trainedmodel_devkit.errors import PredictionFailed
from trainedmodel_devkit.models import predict

_WORKERS = 2
_PAUSE_S = 0.01
_PATIENCE_S = 10.0


class Traffic:
    """Asks one model on several servers until the block ends; an async context manager.

    `servers` are URLs by the name of the pod. `limit_s` bounds the loops whatever happens.
    """

    def __init__(
        self,
        exhibit: Exhibit,
        servers: Mapping[str, str],
        allowed: Sequence[Sequence[float]],
        *,
        limit_s: float,
    ) -> None:
        self._exhibit = exhibit
        self._servers = servers
        self._allowed = {tuple(answer) for answer in allowed}
        self._limit_s = limit_s
        self._stopping = asyncio.Event()
        self.answers: Counter[tuple[float, ...]] = Counter()
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        self._workers = [
            asyncio.create_task(self._ask(pod, url), name=f"traffic/{pod}/{number}")
            for pod, url in self._servers.items()
            for number in range(_WORKERS)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        try:
            await asyncio.gather(*self._workers)
        finally:
            for worker in self._workers:
                worker.cancel()
            await self._session.close()

    @property
    def sent(self) -> int:
        """How many requests were answered or failed."""
        return self.answers.total() + len(self.failures)

    def count(self, answer: Sequence[float]) -> int:
        """Count how often an answer was given."""
        return self.answers[tuple(answer)]

    async def _ask(self, pod: str, url: str) -> None:
        deadline = asyncio.get_running_loop().time() + self._limit_s
        while not self._stopping.is_set() and asyncio.get_running_loop().time() < deadline:
            try:
                answer = await predict(
                    url,
                    self._exhibit.name,
                    self._exhibit.inputs,
                    session=self._session,
                    timeout_s=_PATIENCE_S,
                )
            except (PredictionFailed, aiohttp.ClientError, TimeoutError) as error:
                self.failures.append(f"{pod}: {type(error).__name__} {error}")
            else:
                self._note(pod, tuple(answer))
            await asyncio.sleep(_PAUSE_S)

    def _note(self, pod: str, answer: tuple[float, ...]) -> None:
        if answer in self._allowed:
            self.answers[answer] += 1
        else:
            self.failures.append(f"{pod}: answered {list(answer)}")
