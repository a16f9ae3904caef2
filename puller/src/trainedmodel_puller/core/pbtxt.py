"""Triton's `config.pbtxt`: protobuf text, of which only the top-level fields are parsed.

The file is a user's, so nothing in it is an error here: unknown content is skipped and preserved.
The text may hold any characters; bytes that are not UTF-8 come in as lone surrogates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<space>[\s\ufeff]+|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<word>[A-Za-z0-9_.+-]+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_OPENING: Final = "{[<"
_CLOSING: Final = "}]>"


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int
    end: int

    @property
    def is_string(self) -> bool:
        return len(self.text) > 1 and self.text[0] in "\"'"


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of the top level.

    Attributes:
        name: Its name.
        strings: The string literals of its value, without their quotes; empty for other values.
        start, end: Where it begins, and where its value and a separator after it end.
    """

    name: str
    strings: tuple[str, ...]
    start: int
    end: int


def without_name(text: str) -> str:
    """Take all top-level `name:` fields out; all else stays as it is."""
    kept: list[str] = []
    at = 0
    for field in _top_fields(text):
        if field.name == "name" and field.strings:
            kept.append(text[at : field.start])
            at = field.end
    return "".join(kept) + text[at:]


def is_ensemble(text: str) -> bool:
    """Return whether a configuration is of an ensemble, which has no files of its own."""
    fields = {field.name: "".join(field.strings) for field in _top_fields(text)}
    return fields.get("platform") == "ensemble" or "ensemble_scheduling" in fields


def _top_fields(text: str) -> Iterator[_Field]:
    tokens = [
        _Token(match.group(), match.start(), match.end())
        for match in _TOKEN.finditer(text)
        if match.lastgroup != "space"
    ]
    depth = at = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token.text in _OPENING:
            depth += 1
        elif token.text in _CLOSING:
            depth -= 1
        elif depth == 0 and _is_word(token):
            value = at
            if value < len(tokens) and tokens[value].text == ":":
                value += 1
            last = value
            while last < len(tokens) and tokens[last].is_string:
                last += 1
            strings = tuple(part.text[1:-1] for part in tokens[value:last])
            if strings:
                at = last
                if at < len(tokens) and tokens[at].text in ",;":
                    at += 1
            yield _Field(token.text, strings, token.start, tokens[at - 1].end)


def _is_word(token: _Token) -> bool:
    return token.text[0].isalpha() or token.text[0] == "_"
