"""The pages tell the truth: what they name exists. And they can be read: width, words, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from trainedmodel_devkit import pages

ROOT = Path(__file__).resolve().parents[1]
RECORDS = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
#: Pages of the project, without the dated records of measurements.
PAGES = [
    *(ROOT / "benchmarks").glob("*.md"),
    *(page for folder in ("docs", "deploy", ".github") for page in ROOT.glob(f"{folder}/**/*.md")),
    *ROOT.glob("*.md"),
]
MEMBERS = ("contract", "operator", "puller", "devkit")
WIDTH = 100
#: Markdown cannot wrap a row, so a row may be wider; a cell that needs more is a paragraph.
CELL = 100
#: Words that make a sentence hard to read for people whose language is not English.
HARD_WORDS = ("shall", "anew", "whoever", "whatsoever", "thereof", "told of", "of ours")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def lines(page: Path) -> Iterator[tuple[int, str]]:
    return enumerate(page.read_text().splitlines(), 1)


def prose(page: Path) -> str:
    """Return a page without blocks of code and without inline code."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`", "", text)


def anchors(page: Path) -> set[str]:
    """Return what links into a page may name, as forges make it of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_row(line: str) -> bool:
    return line.lstrip().startswith("|")


def test_each_test_that_the_architecture_page_names_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    tests = set(re.findall(r"`(test_\w+)`", page))
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    existing = set(re.findall(r"def (test_\w+)", code))
    assert tests
    assert tests <= existing, tests - existing


def test_each_invariant_is_listed_with_a_test() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^- \*\*([OP]\d+)\*\* .+\n(?:  [^\n-].*\n)*  - `test_", page, re.MULTILINE)
    assert set(rows) == {f"O{n}" for n in range(1, 12)} | {f"P{n}" for n in range(1, 13)}


def test_links_between_pages_lead_somewhere() -> None:
    wrong = []
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", page.read_text()):
            file = page.parent / target if target else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                wrong.append(f"{named(page)}: {target}#{anchor}")
    assert wrong == []


def files_named_in(page: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield each path in inline code, with the places that it may be in."""
    packages = [ROOT / one / "src" / f"trainedmodel_{one}" for one in MEMBERS]
    for path in re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|ya?ml|txt))`", page.read_text()):
        yield path, [folder / path for folder in (ROOT, page.parent, *packages)]


def test_files_that_pages_name_exist() -> None:
    wrong = [
        f"{named(page)}: {path}"
        for page in PAGES
        if page.name != "CHANGELOG.md"  # it names what was
        for path, places in files_named_in(page)
        if not any(place.exists() for place in places)
    ]
    assert wrong == []


def test_pages_wrap_at_100_columns() -> None:
    wide = [
        f"{named(page)}:{number}"
        for page in PAGES
        for number, line in lines(page)
        if len(line) > WIDTH and not is_row(line)
    ]
    assert wide == []


def test_no_cell_of_a_table_holds_a_paragraph() -> None:
    wide = [
        f"{named(page)}:{number}"
        for page in PAGES
        for number, line in lines(page)
        if is_row(line) and max(len(cell.strip()) for cell in line.split("|")) > CELL
    ]
    assert wide == []


@pytest.mark.parametrize("word", HARD_WORDS)
def test_pages_use_plain_words(word: str) -> None:
    found = [named(page) for page in PAGES if re.search(rf"\b{word}\b", prose(page), re.IGNORECASE)]
    assert found == []


def test_pages_that_are_made_from_the_programs_are_current() -> None:
    assert pages.stale(ROOT) == []


def test_records_of_decisions_are_numbered_without_a_hole() -> None:
    numbers = [int(record.name[:4]) for record in RECORDS]
    assert numbers == list(range(1, len(RECORDS) + 1))
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    assert re.findall(r"^- \d{4}: \[.+\]\((.+)\)$", index, re.MULTILINE) == [
        record.name for record in RECORDS
    ]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name[:4])
def test_a_record_has_a_date_a_status_and_each_section(record: Path) -> None:
    text = record.read_text()
    assert text.startswith(f"# {record.name[:4]}. ")
    assert re.search(r"^- Date: \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert re.search(r"^- Status: (proposed|accepted|superseded)", text, re.MULTILINE)
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert sections == ["Context", "Decision", "Consequences", "Alternatives"]


def test_the_readme_s_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked: set[str] = set()
    for page in ("README.md", "CONTRIBUTING.md", "AGENTS.md"):
        asked |= set(re.findall(r"`?make ([a-z0-9-]+)", (ROOT / page).read_text()))
    assert asked - targets <= {"lists", "setup"}, asked - targets


def test_no_project_folder_is_a_package() -> None:
    for folder in MEMBERS:
        assert not (ROOT / folder / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))
