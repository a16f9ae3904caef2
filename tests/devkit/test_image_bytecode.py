"""What an image gets of bytecode when its base comes without that of Python's own library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from trainedmodel_devkit.environments import checkout

pytestmark = pytest.mark.slow

SCRIPT = checkout() / "images" / "bytecode.py"


def run(bytecode: Path, *words: str | Path) -> str:
    """Run Python as if all bytecode lay below a folder; return what it said of its imports."""
    result = subprocess.run(
        [sys.executable, "-v", *words],
        env={**os.environ, "PYTHONPYCACHEPREFIX": str(bytecode), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stderr


def test_the_bytecode_that_a_base_lacks_is_laid_out_and_found(tmp_path: Path) -> None:
    nowhere, laid_out = tmp_path / "nowhere", tmp_path / "base"
    run(nowhere, SCRIPT, laid_out, "json")
    copied = laid_out / nowhere.relative_to(nowhere.anchor)
    said = run(copied, "-c", "import json")
    for module in ("json/__init__", "json/decoder", "re/_parser"):
        assert any(
            f"{copied}/" in line and f"/{module}.cpython" in line and " matches " in line
            for line in said.splitlines()
        ), module


def test_it_is_not_taken_for_sources_that_were_updated_since(tmp_path: Path) -> None:
    nowhere, laid_out = tmp_path / "nowhere", tmp_path / "base"
    run(nowhere, SCRIPT, laid_out, "json")
    found = list(laid_out.rglob("*.pyc"))
    assert found
    for file in found:
        checked_by_time = (0).to_bytes(4, "little")
        assert file.read_bytes()[4:8] == checked_by_time, file


def test_what_a_base_has_is_not_laid_out_again(tmp_path: Path) -> None:
    nowhere, laid_out, again = tmp_path / "nowhere", tmp_path / "base", tmp_path / "again"
    run(nowhere, SCRIPT, laid_out, "json")
    run(laid_out / nowhere.relative_to(nowhere.anchor), SCRIPT, again, "json")
    assert not list(again.rglob("*.pyc"))
