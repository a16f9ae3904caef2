"""Stable messages: removes the parts of a library's or server's message that vary between tries.

A message that differs with each try would cause a new report, a new status and a new Event each
time. Users also compare messages to see whether anything has changed. Pure.
"""

from __future__ import annotations

import re
from typing import Final

_NEW_EACH_TIME: Final = (
    # Rust's clients: "in 2.118476ms", ", after 1 retries, max_retries: 1, retry_timeout: 30s"
    re.compile(r",? (?:in|after|took) \d+(?:\.\d+)?\s?(?:ns|µs|us|ms|s)\b(?! of)"),
    re.compile(r", after \d+ retr(?:y|ies)(?:, max_retries: \d+)?(?:, retry_timeout: [\d.]+\w+)?"),
    # Python's: "<Thing object at 0x7f5eb89280d0>"
    re.compile(r" at 0x[0-9a-fA-F]+"),
    # stores': "RequestId:4f0c..., Time:2026-01-01T00:00:00.0000000Z"
    re.compile(
        r"[\s(,;]*\b(?:x-amz-)?(?:request|host|trace|correlation)[ _-]?id"
        r"[\"']?\s*[:=]\s*[\"']?[^\s,;)\"']+[)\"']?",
        re.IGNORECASE,
    ),
    re.compile(
        r"[\s(,;]*\b(?:time|date)(?:stamp)?\s*[:=]\s*\d{4}-\d\d-\d\dT[\d:.]+Z?\)?", re.IGNORECASE
    ),
)


def steady(text: str) -> str:
    """Cut what is new in each try: durations, counts of retries, identifiers of requests."""
    for pattern in _NEW_EACH_TIME:
        text = pattern.sub("", text)
    return text.strip()
