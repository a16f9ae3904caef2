"""Configuration files of servers that take one: what is read of them and written to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class ConfigError(ValueError):
    """The configuration file cannot be understood; the message says where."""


@dataclass(frozen=True, slots=True)
class Row:
    """One model in the configuration file.

    Attributes:
        base_path: The folder with its versions, as the server sees it.
        versions: Versions asked for by number; empty if by another rule.
    """

    base_path: str
    versions: tuple[int, ...]


class ConfigFormat(Protocol):
    """How a server's configuration file is written."""

    #: A file without models, which is not always an empty file.
    empty: str

    def rows(self, text: str) -> dict[str, Row]:
        """Return the models of a file by name.

        Raises:
            ConfigError: it cannot be understood.
        """
        ...

    def edit(self, text: str, name: str, base_path: str, versions: Sequence[int]) -> str:
        """Return the file with one model's row put in, replaced, or (no versions) taken out.

        Raises:
            ConfigError: it cannot be understood.
        """
        ...
