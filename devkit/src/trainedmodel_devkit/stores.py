"""Places that models are fetched from: a real S3 server and a plain HTTP file server."""

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import obstore
from aiohttp import web
from obstore.store import S3Store as ObjectStore

from trainedmodel_devkit import guard
from trainedmodel_devkit.binaries import versitygw_binary
from trainedmodel_devkit.errors import CommandFailed, StartFailed
from trainedmodel_devkit.ports import free_port, listens
from trainedmodel_devkit.processes import ManagedProcess

_REGION = "us-east-1"
_START_TIMEOUT_S = 20


class S3Store:
    """An S3 server over a temporary folder, on loopback or another address; a context manager.

    It has two users: the owner, to whom all buckets belong, and one who may do nothing. `stop` and
    `start` keep data and port: the store is gone for a while. All calls block; in a coroutine, call
    them in a thread.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._port = free_port()
        self._owner = ("owner", secrets.token_hex(16))
        self._stranger = ("stranger", secrets.token_hex(16))
        self.endpoint = f"http://{host}:{self._port}"

    def __enter__(self) -> Self:
        program = versitygw_binary()
        self.folder = Path(tempfile.mkdtemp(prefix="trainedmodel-s3-"))
        guard.watch_folder(self.folder)
        for name in ("buckets", "users", "sidecar"):
            (self.folder / name).mkdir()
        command = [
            str(program),
            f"--port={self._host}:{self._port}",
            f"--region={_REGION}",
            f"--iam-dir={self.folder / 'users'}",
            "posix",
            *(
                []
                if _has_extended_attributes(self.folder)
                else [f"--sidecar={self.folder / 'sidecar'}"]
            ),
            str(self.folder / "buckets"),
        ]
        access, secret = self._owner
        env = {
            "ROOT_ACCESS_KEY_ID": access,
            "ROOT_SECRET_ACCESS_KEY": secret,
            "HOME": str(self.folder),
        }
        self._process = ManagedProcess(
            "versitygw", command, log=self.folder / "server.log", env=env
        )
        try:
            self.start()
            self._admin(program, "create-user", *self._stranger)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        guard.forget_folder(self.folder)

    def start(self) -> None:
        """Start the server on its data and port, and wait until it answers."""
        self._process.start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not listens(self._port, self._host):
            self._process.check_alive()
            if time.monotonic() > deadline:
                waited = f"no S3 server after {_START_TIMEOUT_S} s"
                raise StartFailed(f"{waited}:\n{self._process.log()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server; what it holds stays."""
        self._process.stop(grace_s=2)

    def env(self) -> dict[str, str]:
        """Return the variables with which an S3 client reaches the store as its owner."""
        return self._env(*self._owner)

    def denied_env(self) -> dict[str, str]:
        """Return the variables of a known user who is denied everything."""
        return self._env(*self._stranger)

    def url(self, bucket: str, prefix: str = "") -> str:
        """Return the `s3://` URL of a prefix or object."""
        return f"s3://{bucket}/{prefix}".rstrip("/")

    def put(self, bucket: str, key: str, content: bytes) -> None:
        """Write one object; the bucket is made if missing."""
        obstore.put(self._bucket(bucket), key, content)

    def put_tree(self, bucket: str, prefix: str, folder: Path) -> str:
        """Write all files under a folder as objects under a prefix, and return the prefix's URL."""
        store = self._bucket(bucket)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                obstore.put(
                    store, f"{prefix.strip('/')}/{path.relative_to(folder).as_posix()}", path
                )
        return self.url(bucket, prefix)

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """List the keys of the objects under a prefix."""
        pages = obstore.list(self._bucket(bucket), prefix or None)
        return sorted(found["path"] for page in pages for found in page)

    def delete_prefix(self, bucket: str, prefix: str) -> None:
        """Delete all objects under a prefix."""
        keys = self.keys(bucket, prefix)
        if keys:
            obstore.delete(self._bucket(bucket), keys)

    def log(self) -> str:
        """Return the server's log: one line for each request."""
        return self._process.log()

    def _bucket(self, name: str) -> ObjectStore:
        access, secret = self._owner
        # A bucket of the owner is a folder; made behind the server's back it belongs to the owner
        # as well.
        (self.folder / "buckets" / name).mkdir(exist_ok=True)
        return ObjectStore(
            name,
            endpoint=self.endpoint,
            region=_REGION,
            access_key_id=access,
            secret_access_key=secret,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    def _env(self, access: str, secret: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": _REGION,
            "AWS_ALLOW_HTTP": "true",
        }

    def _admin(self, program: Path, verb: str, access: str, secret: str) -> None:
        owner, key = self._owner
        login = [
            "--access",
            owner,
            "--secret",
            key,
            "--endpoint-url",
            self.endpoint,
            "--region",
            _REGION,
        ]
        user = ["--access", access, "--secret", secret, "--role", "user"]
        result = subprocess.run(
            [program, "admin", *login, verb, *user], capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise CommandFailed(f"versitygw admin {verb}: {result.stderr or result.stdout}")


class HttpStore:
    """A file server for `http://` models, with ranges and entity tags; an async context manager.

    It runs in the caller's event loop. `requests` lists what was asked: method, path and the Range
    header.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[tuple[str, str, str]] = []

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._send)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        self._port = free_port()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def url(self, path: str) -> str:
        """Return the URL of a file under the folder."""
        return f"http://127.0.0.1:{self._port}/{path}"

    async def _send(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        self.requests.append((request.method, f"/{path}", request.headers.get("Range", "")))
        if ".." in Path(path).parts:
            raise web.HTTPForbidden
        return web.FileResponse(self.folder / path)


def _has_extended_attributes(folder: Path) -> bool:
    """Say whether the file system can hold what the server knows of an object beside its bytes."""
    probe = folder / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.trainedmodel", b"1")
    except OSError:
        return False
    return True
