"""A server of Google Cloud Storage's API, as `gs://` clients see it: fake-gcs-server, in memory."""

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlencode
from urllib.request import ProxyHandler, Request, build_opener

from trainedmodel_devkit import guard
from trainedmodel_devkit.binaries import fake_gcs_server_binary
from trainedmodel_devkit.errors import StartFailed
from trainedmodel_devkit.ports import free_port, listens
from trainedmodel_devkit.processes import ManagedProcess

_START_TIMEOUT_S = 20


class GcsStore:
    """A GCS server on loopback with some buckets; a context manager.

    It checks no credentials. All calls block; in a coroutine, call them in a thread.
    """

    def __init__(self, *buckets: str) -> None:
        self._buckets = buckets
        self._port = free_port()
        self.endpoint = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        program = fake_gcs_server_binary()
        self.folder = Path(tempfile.mkdtemp(prefix="trainedmodel-gcs-"))
        guard.watch_folder(self.folder)
        for bucket in self._buckets:
            (self.folder / "buckets" / bucket).mkdir(parents=True)
        command = [
            str(program),
            "-scheme=http",
            "-host=127.0.0.1",
            f"-port={self._port}",
            "-backend=memory",
            f"-data={self.folder / 'buckets'}",
            f"-public-host=127.0.0.1:{self._port}",
            f"-external-url={self.endpoint}",
        ]
        log = self.folder / "server.log"
        self._process = ManagedProcess(
            "fake-gcs-server", command, log=log, env={"HOME": os.fspath(self.folder)}
        )
        try:
            self._process.start()
            self._await_start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop(grace_s=2)
        shutil.rmtree(self.folder, ignore_errors=True)
        guard.forget_folder(self.folder)

    def env(self) -> dict[str, str]:
        """Return the variables with which a client reaches the store."""
        return {"GOOGLE_BASE_URL": self.endpoint, "GOOGLE_SKIP_SIGNATURE": "true"}

    def put(self, bucket: str, key: str, content: bytes) -> None:
        """Write one object."""
        query = urlencode({"uploadType": "media", "name": key}, quote_via=quote)
        request = Request(
            f"{self.endpoint}/upload/storage/v1/b/{bucket}/o?{query}",
            data=content,
            headers={"Content-Type": "application/octet-stream"},
            method="POST",
        )
        # no proxy is asked for what is on this machine
        with build_opener(ProxyHandler({})).open(request, timeout=_START_TIMEOUT_S) as answer:
            answer.read()

    def _await_start(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not listens(self._port):
            self._process.check_alive()
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"no GCS server after {_START_TIMEOUT_S} s:\n{self._process.log()}"
                )
            time.sleep(0.02)
