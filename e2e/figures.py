"""Figures: what was measured beside what was promised, as a table for the end of a run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Record = Callable[["Figure"], None]

_HEAD = ("measured", "median", "least", "most", "n", "promised")


@dataclass(frozen=True)
class Figure:
    """One thing that was measured.

    Attributes:
        values: All of them, in the order in which they came.
        promised: The median stays below it; None: nothing was promised.
    """

    what: str
    values: Sequence[float]
    unit: str
    promised: float | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        middle, least, most = statistics.median(self.values), min(self.values), max(self.values)
        shown = [f"{value:.{0 if value >= 10 else 2}f}" for value in (middle, least, most)]
        promise = ""
        if self.promised is not None:
            word = "kept" if middle < self.promised else "MISSED"
            promise = f"< {self.promised:g} {self.unit} {word}"
        return (self.what, f"{shown[0]} {self.unit}", *shown[1:], str(len(self.values)), promise)


def table(figures: Sequence[Figure]) -> Iterator[str]:
    """Yield the lines of a table, in columns that people and Markdown can read."""
    rows = [_HEAD, *(figure.cells() for figure in figures)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEAD))]
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield f"| {' | '.join(cells)} |"
        if number == 0:
            yield f"| {' | '.join('-' * width for width in widths)} |"
