"""What the user sees while something takes long: a live line on a terminal, plain lines elsewhere.

Everything goes to standard error, so that the output of a command (a path, a kubeconfig) stays
usable in a pipe.
"""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Print one line."""
    _console.print(line, markup=False)


def duration(seconds: float) -> str:
    """Write a duration for people: `0.4 s`, `12 s`, `4 min 24 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


@contextlib.contextmanager
def step(what: str, expected_s: float) -> Iterator[None]:
    """Show that `what` is under way, how long it takes as a rule, and how long it took."""
    started = time.monotonic()
    usual = f"about {duration(expected_s)}"
    if _console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=_console, transient=True) as live:
            live.add_task(f"{what} ({usual})")
            yield
    else:
        say(f"{what} ({usual})")
        yield
    say(f"{what}: done in {duration(time.monotonic() - started)}")
