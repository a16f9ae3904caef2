"""The interface of a server's configuration file: reading its models and editing one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class ConfigError(ValueError):
    """The configuration file cannot be parsed. The message says where."""


@dataclass(frozen=True, slots=True)
class Row:
    """One model in the configuration file.

    Attributes:
        base_path: The folder with its versions, as the server sees it.
        versions: The listed version numbers; empty if the file selects versions by another rule.
    """

    base_path: str
    versions: tuple[int, ...]


class ConfigFormat(Protocol):
    """Reads and edits the configuration file of one kind of server."""

    #: The content of a file without models. An empty file may mean something else.
    empty: str

    def rows(self, text: str) -> dict[str, Row]:
        """Return the models of a file by name.

        Raises:
            ConfigError: it cannot be parsed.
        """
        ...

    def edit(self, text: str, name: str, base_path: str, versions: Sequence[int]) -> str:
        """Return the text with one model's row added or replaced, or removed without versions.

        Raises:
            ConfigError: it cannot be parsed.
        """
        ...
