from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from trainedmodel_devkit.crowd import Crowd
from trainedmodel_devkit.operatorscene import OperatorScene

ROOT = Path(__file__).resolve().parents[3]

_numbers = itertools.count()


@pytest.fixture(scope="module")
def scene() -> Iterator[OperatorScene]:
    """One control plane for all tests of a module; each starts the operator by itself."""
    with OperatorScene(ROOT) as running:
        yield running


@pytest.fixture
async def crowd(scene: OperatorScene) -> AsyncIterator[Crowd]:
    """A namespace of its own, and everybody who writes to it; the operator ends with it."""
    namespace = f"crowd-{next(_numbers)}"
    scene.control_plane.kubectl("create", "namespace", namespace)
    try:
        async with Crowd(scene.control_plane, namespace) as everybody:
            yield everybody
    finally:
        scene.stop()
