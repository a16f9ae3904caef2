"""The real parts, started once for all tests of the development kit."""

import asyncio
from collections.abc import Iterator

import pytest
from trainedmodel_devkit import fixtures
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.stores import S3Store

# pytest-asyncio asks for the current loop before its own; Python 3.11 then makes one that nobody
# closes, unless it has been told that there is none.
asyncio.set_event_loop(None)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    with fixtures.control_plane(audit_log=True) as running:
        yield running


@pytest.fixture(scope="session")
def s3_store() -> Iterator[S3Store]:
    with fixtures.s3_store() as running:
        yield running
