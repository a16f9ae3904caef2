from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import fsspec
import pytest
from blockbuster import blockbuster_ctx
from trainedmodel_devkit.stores import S3Store
from trainedmodel_puller.storage.download import Downloader, DownloadLimits
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings


@pytest.fixture(autouse=True, scope="module")
def _nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("trainedmodel_puller"):
        yield


@pytest.fixture(autouse=True)
async def _no_task_is_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() - before <= {asyncio.current_task()}


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """A folder that `file://` may read."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
async def registry(roots: Path) -> AsyncIterator[StorageRegistry]:
    settings = StorageSettings(file_roots=(roots,), answer_timeout_s=5)
    async with StorageRegistry(settings) as registry:
        yield registry


@pytest.fixture
async def downloader(registry: StorageRegistry) -> AsyncIterator[Downloader]:
    async with Downloader(registry, SMALL_PARTS) as downloader:
        yield downloader


#: Parts so small that a test's object has many.
SMALL_PARTS = DownloadLimits(part_bytes=64 * 1024, stall_timeout_s=0.5)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Store]:
    with S3Store() as running:
        yield running


@pytest.fixture
def s3_env(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """The S3 server, with the environment of its owner."""
    for name, value in s3.env().items():
        monkeypatch.setenv(name, value)
    return s3


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture(autouse=True)
def _no_ambient_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    assert threading.current_thread() is threading.main_thread()
