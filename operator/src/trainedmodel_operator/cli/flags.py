"""Flags: checks of values that parse but cannot work.

A namespace that no cluster can have, or a duration that is not a number, would be accepted in
silence. The operator would then lead and be ready, but serve nothing. So these values are refused.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])

PREFIX: Final = "TRAINEDMODEL_OPERATOR_"
#: What Kubernetes itself puts into the environment of a pod beside a Service of the same name.
_OF_SERVICES: Final = re.compile(r"(SERVICE_(HOST|PORT)|PORT)(_.*)?")
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_ALIKE: Final = 0.8


def with_flags(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    """Give a command these options, in this order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class Seconds(click.FloatRange):
    """A duration: a number, and not `nan` or `inf`."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read a number."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return seconds


def namespace(_: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Read the name of one namespace."""
    if text is not None and not _LABEL.fullmatch(text):
        raise click.BadParameter(_no_namespace(text), param=parameter)
    return text


def namespaces(
    context: click.Context, parameter: click.Parameter, texts: Sequence[str]
) -> tuple[str, ...]:
    """Read names of namespaces, between commas or spaces; each counts once.

    A value without a name is refused, because it would mean all namespaces.
    """
    found = [name for text in texts for name in re.split(r"[\s,]+", text) if name]
    for name in found:
        if not _LABEL.fullmatch(name):
            raise click.BadParameter(_no_namespace(name), param=parameter)
    source = context.get_parameter_source(str(parameter.name))
    if not found and source not in {ParameterSource.DEFAULT, None}:
        raise click.BadParameter(
            "the value names no namespace. Omit the flag to serve all namespaces.", param=parameter
        )
    return tuple(dict.fromkeys(found))


def _no_namespace(text: str) -> str:
    words = f"{text!r} is not a valid namespace name"
    if set(text) & set("*?[]{}|^$"):
        return f"{words}: patterns are not supported. List each namespace."
    return f"{words}: use at most 63 lower-case letters, digits and hyphens."


def unknown_variables(
    known: Iterable[str], environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return variables that look like one of the operator's and are none, with the one meant."""
    known = set(known)
    found: dict[str, str] = {}
    for name in environment:
        rest = name.removeprefix(PREFIX)
        if not name.startswith(PREFIX) or name in known or _OF_SERVICES.fullmatch(rest):
            continue
        alike = difflib.get_close_matches(name, known, 1, _ALIKE)
        found[name] = alike[0] if alike else ""
    return dict(sorted(found.items()))
