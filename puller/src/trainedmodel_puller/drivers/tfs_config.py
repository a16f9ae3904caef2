"""TensorFlow Serving's `models.config`: protobuf text, in which single rows are read and replaced.

The parser covers only the needed part of the text format: the begin and end of messages, and the
strings and numbers of four fields. Everything else (comments, fields of other rows) is kept byte
for byte. Text that cannot be parsed is an error and never skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from trainedmodel_puller.drivers.config_format import ConfigError, Row

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<word>[A-Za-z0-9_.+-]+)
      | (?P<mark>[{}<>\[\]:;,/])""",
    re.VERBOSE,
)
_CLOSING: Final = {"{": "}", "<": ">", "[": "]"}


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int
    end: int

    @property
    def is_string(self) -> bool:
        return self.text[0] in "\"'"


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message.

    Attributes:
        name: Its name.
        start: Offset of its name.
        end: Offset after its value and a separator.
        value: The tokens of its value, without the brackets of a message.
        body_end: Offset of the closing bracket of a message; None for other values.
    """

    name: str
    start: int
    end: int
    value: tuple[_Token, ...]
    body_end: int | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    row: Row
    start: int
    end: int


class TfsConfigText:
    """Reads and edits the file's text."""

    #: An empty list unloads everything. An empty file would change nothing, because TensorFlow
    #: Serving takes it for no configuration.
    empty = "model_config_list {\n}\n"

    def rows(self, text: str) -> dict[str, Row]:
        """Return the models by name."""
        return {name: block.row for name, block in _read(text)[0].items()}

    def edit(self, text: str, name: str, base_path: str, versions: Sequence[int]) -> str:
        """Return the text with one model's row added or replaced, or removed without versions."""
        blocks, end = _read(text)
        made = _render(name, base_path, versions) if versions else ""
        if name in blocks:
            start, stop = _whole_lines(text, blocks[name].start, blocks[name].end)
            return text[:start] + made + text[stop:]
        if not made:
            return text
        if end is None:
            gap = "" if not text or text.endswith("\n") else "\n"
            return f"{text}{gap}model_config_list {{\n{made}}}\n"
        head = text[:end]
        return head + ("" if head.endswith("\n") else "\n") + made + text[end:]


def _render(name: str, base_path: str, versions: Sequence[int]) -> str:
    numbers = " ".join(f"versions: {version}" for version in versions)
    lines = (
        "config {",
        f"  name: {_quote(name)}",
        f"  base_path: {_quote(base_path)}",
        '  model_platform: "tensorflow"',
        f"  model_version_policy {{ specific {{ {numbers} }} }}",
        "}",
    )
    return "".join(f"  {line}\n" for line in lines)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _whole_lines(text: str, start: int, end: int) -> tuple[int, int]:
    """Extend a span to whole lines, if nothing else is on them."""
    line = text.rfind("\n", 0, start) + 1
    if not text[line:start].strip():
        start = line
    rest = text.find("\n", end)
    if rest >= 0 and not text[end:rest].strip():
        end = rest + 1
    return start, end


def _read(text: str) -> tuple[dict[str, _Block], int | None]:
    """Return the rows by name, and the end of the list if there is one."""
    top = list(_fields(tuple(_tokens(text))))
    lists = [field for field in top if field.name == "model_config_list"]
    others = [field.name for field in top if field.name != "model_config_list"]
    if others or len(lists) > 1 or any(field.body_end is None for field in lists):
        raise ConfigError("it must have one model_config_list { ... } and nothing else")
    blocks: dict[str, _Block] = {}
    for field in _fields(lists[0].value) if lists else ():
        if field.name != "config" or field.body_end is None:
            raise ConfigError(f"{field.name!r} in model_config_list is not config {{ ... }}")
        name, row = _row(field)
        if name in blocks:
            raise ConfigError(f"it lists the model {name!r} twice")
        blocks[name] = _Block(row, field.start, field.end)
    return blocks, lists[0].body_end if lists else None


def _row(config: _Field) -> tuple[str, Row]:
    said = {field.name: field for field in _fields(config.value)}
    if "name" not in said or "base_path" not in said:
        raise ConfigError("a config must have name and base_path")
    versions: list[int] = []
    for field in _fields(
        said["model_version_policy"].value if "model_version_policy" in said else ()
    ):
        if field.name == "specific":
            versions = [
                _number(token)
                for inner in _fields(field.value)
                for token in inner.value
                if inner.name == "versions" and token.text != ","
            ]
    return _string(said["name"]), Row(_string(said["base_path"]), tuple(versions))


def _number(token: _Token) -> int:
    try:
        return int(token.text, 0)
    except ValueError:
        raise ConfigError(f"{token.text!r} is not a version number") from None


def _string(field: _Field) -> str:
    if not field.value or not all(token.is_string for token in field.value):
        raise ConfigError(f"{field.name} must be a string")
    parts = [token.text[1:-1] for token in field.value]
    try:
        return "".join(
            part.encode().decode("unicode_escape") if "\\" in part else part for part in parts
        )
    except UnicodeError as error:
        raise ConfigError(f"{field.name} has an invalid escape") from error


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            line = text.count("\n", 0, position) + 1
            raise ConfigError(f"line {line} is not protobuf text: {text[position:][:40]!r}")
        if match.lastgroup != "space":
            yield _Token(match.group(), match.start(), match.end())
        position = match.end()


def _fields(tokens: tuple[_Token, ...]) -> Iterator[_Field]:
    """Split the tokens of a message into its fields."""
    at = 0
    while at < len(tokens):
        name = tokens[at]
        after = _closing(tokens, at) + 1 if name.text == "[" else at + 1  # [type.url/name] {...}
        has_colon = after < len(tokens) and tokens[after].text == ":"
        first = after + 1 if has_colon else after
        if name.text in ":;,/{}<>]" or name.is_string or first >= len(tokens):
            raise ConfigError(f"{name.text!r} is not a field with a value")
        body_end: int | None = None
        if tokens[first].text in _CLOSING:
            last = _closing(tokens, first)
            value = tokens[first + 1 : last]
            body_end = tokens[last].start if tokens[first].text != "[" else None
        elif has_colon:
            last = first
            while tokens[first].is_string and last + 1 < len(tokens) and tokens[last + 1].is_string:
                last += 1
            value = tokens[first : last + 1]
        else:
            raise ConfigError(f"{name.text!r} has neither ':' nor '{{'")
        if last + 1 < len(tokens) and tokens[last + 1].text in ",;":
            last += 1
        yield _Field(name.text, name.start, tokens[last].end, value, body_end)
        at = last + 1


def _closing(tokens: tuple[_Token, ...], opening: int) -> int:
    """Return the index of the bracket that closes the one at `opening`."""
    waiting: list[str] = []
    for index in range(opening, len(tokens)):
        text = tokens[index].text
        if text in _CLOSING:
            waiting.append(_CLOSING[text])
        elif text in "}>]":
            if waiting.pop() != text:
                break
            if not waiting:
                return index
    raise ConfigError(f"a {tokens[opening].text!r} is never closed")
