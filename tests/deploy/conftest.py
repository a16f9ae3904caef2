from __future__ import annotations

from pathlib import Path

import pytest
from support.helm_chart import Helm


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    """helm without a cluster."""
    return Helm(tmp_path)
