from __future__ import annotations

import pytest
import structlog
from support.operator.fake_kube import FakeKube, Operator


@pytest.fixture(autouse=True)
def _quiet_logs() -> None:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


@pytest.fixture
def kube() -> FakeKube:
    return FakeKube()


@pytest.fixture
def operator(kube: FakeKube) -> Operator:
    return Operator(kube)
