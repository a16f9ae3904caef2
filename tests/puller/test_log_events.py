"""The events of the puller's log: their form, and the page that lists them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "puller" / "src" / "trainedmodel_puller"
PAGE = ROOT / "docs" / "puller.md"
LEVELS = {"debug", "info", "warning", "error", "exception"}


def is_log_call(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Name):
        return call.func.id == "say"
    return (
        isinstance(call.func, ast.Attribute)
        and call.func.attr in LEVELS
        and ast.unparse(call.func.value) in {"log", "structlog.get_logger()"}
    )


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and is_log_call(node):
                yield path.name, node


def events() -> set[str]:
    return {
        part.value
        for _, call in log_calls()
        for part in ast.walk(call.args[0])
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


def test_an_event_is_snake_case_and_has_more_than_one_word() -> None:
    assert len(events()) > 30
    assert {event for event in events() if not re.fullmatch(r"[a-z]+(_[a-z]+)+", event)} == set()


def test_the_cause_of_a_failure_is_in_the_field_error() -> None:
    fields = {(file, keyword.arg) for file, call in log_calls() for keyword in call.keywords}
    others = {"why", "cause", "message"}
    assert {(file, field) for file, field in fields if field in others} == set()


def test_the_page_lists_all_events() -> None:
    section = PAGE.read_text().partition("\n## Logs\n")[2].partition("\n## ")[0]
    cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(cells))) == events()
