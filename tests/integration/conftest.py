"""The whole system, with one control plane and one store for all tests."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.stack import Stack
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.fixtures import s3_store
from trainedmodel_devkit.models import write_scale_mlserver, write_scale_triton
from trainedmodel_devkit.stores import S3Store

_numbers = itertools.count()


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane(audit_log=True) as running:
        running.install()
        yield running


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    folder = tmp_path_factory.mktemp("models")
    writers = {"mlserver": write_scale_mlserver, "triton": write_scale_triton}
    with s3_store() as running:
        for kind, write in writers.items():
            for k in (2, 3):
                running.put_tree("models", f"{kind}/k{k}", write(folder / kind / f"k{k}", k))
            broken = write(folder / kind / "broken", 2, broken=True)
            running.put_tree("models", f"{kind}/broken", broken)
        yield running


@pytest.fixture
async def stack(
    control_plane: ControlPlane, store: S3Store, tmp_path: Path
) -> AsyncIterator[Stack]:
    async with Stack(control_plane, store, tmp_path, f"it-{next(_numbers)}") as running:
        yield running
