"""The pages tell the truth: what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_each_test_that_the_architecture_page_names_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    existing = set(re.findall(r"def (test_\w+)", code))
    assert named
    assert named <= existing, named - existing


def test_each_invariant_has_a_row() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = set(re.findall(r"^- \*\*([OP]\d+)\*\* ", page, re.MULTILINE))
    assert rows == {f"O{n}" for n in range(1, 12)} | {f"P{n}" for n in range(1, 13)}


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_s_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named: set[str] = set()
    for page in ("README.md", "CONTRIBUTING.md", "AGENTS.md"):
        named |= set(re.findall(r"make ([a-z0-9-]+)", (ROOT / page).read_text()))
    assert named - targets <= {"lists", "setup"}, named - targets


def test_no_project_folder_is_a_package() -> None:
    for folder in ("contract", "operator", "puller", "devkit"):
        assert not (ROOT / folder / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))
