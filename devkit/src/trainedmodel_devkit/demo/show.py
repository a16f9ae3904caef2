"""What the user sees: a live table on a terminal, timestamped lines elsewhere.

Both say the same words in the same order, so that a log of the demo reads like the demo.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text
from trainedmodel_contract.reasons import State
from trainedmodel_contract.trainedmodel import TrainedModel

from trainedmodel_devkit.demo.board import Models, describe, ready_condition
from trainedmodel_devkit.progress import duration

_COLUMNS = ("NAME", "SERVICE", "READY", "COPIES", "STATE", "REASON")
_STYLES = {State.LOADED: "green", State.FAILED: "red", State.BLOCKED: "red"}


class Show:
    """Timestamped lines; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._steps = 0
        self._told: dict[str, str] = {}
        self._closing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Head all that is said in the block with a title, and close it with the time it took."""
        began = time.monotonic()
        self._steps += 1
        self._line(f"{self._steps}. {title}", "bold")
        yield
        self._line(f"   done in {duration(time.monotonic() - began)}", "green")

    def say(self, text: str) -> None:
        """Say something about the step."""
        self._line(f"   {text}")

    def command(self, line: str) -> None:
        """Show the command that a user would type."""
        self._line(f"   $ {line}", "cyan")

    def verbatim(self, text: str) -> None:
        """Print the output of a command as it is."""
        self._print("")
        self._print(text.rstrip("\n"))
        self._print("")

    def models(self, models: Models) -> None:
        """Show the models as they are now."""
        if self._closing:
            return
        now = {name: describe(model) for name, model in models.items()}
        for name in self._told.keys() - now.keys():
            self._line(f"   | {name}: deleted")
        for name, words in now.items():
            if self._told.get(name) != words:
                self._line(f"   | {words}")
        self._told = now

    def fail(self, sentence: str, logs: Mapping[str, str]) -> None:
        """Say what went wrong, and the last words of the programs."""
        for name, tail in logs.items():
            self._print(f"--- {name}", "dim")
            self._print(tail)
        self._line(f"FAILED: {sentence}", "bold red")

    def waiting(self, hint: str) -> None:
        """Say that the show stays open until the user ends it."""
        self._line(hint, "bold")

    def close(self, hint: str) -> None:
        """Say that the end begins; the models' own ends are no news."""
        self._closing = True
        self.waiting(hint)

    def _line(self, text: str, style: str = "") -> None:
        self._print(f"[{time.monotonic() - self._began:6.1f} s] {text}", style)

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(
            text, style=style, markup=False, highlight=False, soft_wrap=True, emoji=False
        )


class LiveShow(Show):
    """The same lines, with a table of the models below them that is always up to date."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._rows: Models = {}
        self._now: tuple[str, float] | None = None
        self._spinner = Spinner("line", style="cyan")
        self._live = Live(
            get_renderable=self._render, console=console, refresh_per_second=8, transient=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """As everywhere, with the running time below the table."""
        self._now = (title, time.monotonic())
        with super().step(title):
            yield
        self._now = None

    def models(self, models: Models) -> None:
        """Put the models into the table."""
        self._rows = models

    def close(self, hint: str) -> None:
        """Take the table away."""
        self._rows = {}
        super().close(hint)

    def waiting(self, hint: str) -> None:
        """Keep the hint below the table."""
        self._now = (hint, time.monotonic())

    def _line(self, text: str, style: str = "") -> None:
        self._print(text, style)

    def _render(self) -> Group:
        parts: list[Table | Spinner | Text] = [Text("")]
        if self._rows:
            parts.append(_table(self._rows))
        if self._now is not None:
            title, began = self._now
            self._spinner.update(text=f"{title} ({time.monotonic() - began:.0f} s)")
            parts.append(self._spinner)
        return Group(*parts)


def make_show() -> Show:
    """Return the show that standard output can carry."""
    console = Console(highlight=False)
    return LiveShow(console) if console.is_terminal else Show(console)


def _table(models: Models) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in _COLUMNS:
        table.add_column(column, no_wrap=True)
    for model in models.values():
        table.add_row(*map(Text, _cells(model)), style=_style(model))
    return table


def _cells(model: TrainedModel) -> tuple[str, ...]:
    status, ready = model.status, ready_condition(model)
    return (
        model.metadata.name,
        model.spec.inference_service,
        ready.status if ready is not None else "",
        status.copies.summary if status.copies is not None else "",
        status.state or "",
        status.reason or "",
    )


def _style(model: TrainedModel) -> str:
    for state, style in _STYLES.items():
        if model.status.state == state:
            return style
    return "yellow"
