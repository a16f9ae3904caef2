"""Log lines: one format for the puller and for libraries, and never two in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SETUP = """
import logging, sys, threading
import structlog
from trainedmodel_puller.cli.logs import configure_logging
configure_logging(sys.argv[1], "info")
"""


def lines(code: str, form: str = "json") -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-c", SETUP + code, form], capture_output=True, check=True, timeout=100
    )
    assert ran.stdout == b""
    return ran.stderr.decode().splitlines()


def test_lines_of_threads_and_of_libraries_are_each_one_json_object() -> None:
    code = """
sys.setswitchinterval(1e-6)
def ours():
    for number in range(300):
        structlog.get_logger().info("downloaded", number=number)
def theirs():
    for number in range(300):
        logging.getLogger("aiohttp").warning("unclosed %s", number)
threads = [threading.Thread(target=one) for one in (ours, theirs, ours, theirs)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    read: list[dict[str, Any]] = [json.loads(line) for line in lines(code)]
    assert len(read) == 1200
    assert {(one["event"].split()[0], one.get("logger")) for one in read} == {
        ("downloaded", None),
        ("unclosed", "aiohttp"),
    }
    assert all(one["level"] in {"info", "warning"} and one["timestamp"] for one in read)


def test_no_query_of_an_address_is_in_a_line_not_even_in_a_traceback() -> None:
    code = """
for logger in (structlog.get_logger(), logging.getLogger("library")):
    try:
        raise ValueError("GET https://store/m.zip?sig=SECRET failed")
    except ValueError:
        logger.exception("https://store/m.zip?sig=SECRET")
"""
    for form in ("json", "console"):
        text = "\n".join(lines(code, form))
        assert text.count("https://store/m.zip") >= 4
        assert "SECRET" not in text
