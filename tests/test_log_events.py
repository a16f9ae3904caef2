"""The events of both programs' logs: their form, and the pages that list them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = {"debug", "info", "warning", "error", "exception"}
#: The page whose section "Logs" lists a program's events.
PAGES = {"operator": "operations.md", "puller": "puller.md"}
PROGRAMS = pytest.mark.parametrize("program", PAGES)


def is_log_call(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Name):
        return call.func.id == "say"
    return (
        isinstance(call.func, ast.Attribute)
        and call.func.attr in LEVELS
        and ast.unparse(call.func.value) in {"log", "say", "structlog.get_logger()"}
    )


def log_calls(program: str) -> Iterator[tuple[str, ast.Call]]:
    for path in sorted((ROOT / program / "src" / f"trainedmodel_{program}").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and is_log_call(node):
                yield path.name, node


def events(program: str) -> set[str]:
    return {
        part.value
        for _, call in log_calls(program)
        for part in ast.walk(call.args[0])
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


@PROGRAMS
def test_an_event_is_snake_case_and_has_more_than_one_word(program: str) -> None:
    found = events(program)
    assert len(found) > 30
    assert {event for event in found if not re.fullmatch(r"[a-z]+(_[a-z]+)+", event)} == set()


@PROGRAMS
def test_the_cause_of_a_failure_is_in_the_field_error(program: str) -> None:
    fields = {(file, one.arg) for file, call in log_calls(program) for one in call.keywords}
    others = {"why", "cause", "message"}
    assert {(file, field) for file, field in fields if field in others} == set()


@PROGRAMS
def test_the_page_lists_all_events(program: str) -> None:
    page = (ROOT / "docs" / PAGES[program]).read_text()
    section = page.partition("\n## Logs\n")[2].partition("\n## ")[0]
    cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(cells))) == events(program)
