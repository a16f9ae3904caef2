"""Requests without rest, so that a gap in the service shows."""

from __future__ import annotations

import threading
import time

from trainedmodel_devkit.waiting import wait_until

from e2e.bench import predict


class Traffic:
    """Requests to one model, one after the other, until the block ends."""

    def __init__(self, url: str, model: str = "updated") -> None:
        self.answers: list[float] = []
        self.failures: list[str] = []
        self._url, self._model = url, model
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Traffic:
        self._thread.start()
        wait_until(lambda: self.answers, 10, what="traffic")
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _ask(self) -> None:
        while not self._ended.is_set():
            try:
                self.answers.append(predict(self._url, self._model))
            except OSError as error:
                self.failures.append(repr(error))
            time.sleep(0.005)
