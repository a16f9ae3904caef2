"""The puller's requests and limits, combined from several sources.

There are three sources, from the weakest to the strongest: the built-in values, the operator's
flags, a pod's annotations. Each value is taken from the strongest source that has it. A request and
a limit belong together, so they are settled as a pair:

 1. A request above its limit: the one from the weaker source follows the other. With
    `--puller-memory-request=2Gi` alone the built-in limit becomes 2Gi.
 2. If both come from the same source, that source contradicts itself, and is refused. The API
    server would refuse every pod with them.
 3. `guaranteed`: request and limit become equal, so that a pod of the class Guaranteed keeps it.
    The value is that of the stronger source, else the limit, else the request. A source that asks
    for it and gives two different values is refused. A stronger source keeps its two values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from trainedmodel_contract.quantity import parse_bytes, parse_millicores

GUARANTEED: Final = "guaranteed"
#: Values of `trainedmodel.dev/qos`.
QOS: Final = ("burstable", GUARANTEED)

CPU_REQUEST: Final = "cpu_request"
CPU_LIMIT: Final = "cpu_limit"
MEMORY_REQUEST: Final = "memory_request"
MEMORY_LIMIT: Final = "memory_limit"


class ResourcesDisagree(ValueError):
    """A source gives two values that cannot both hold; the message names both."""


@dataclass(frozen=True, slots=True)
class Said:
    """The values of one source about resources.

    Attributes:
        values: By field; an empty quantity says that there is none. What is not said is left out.
        qos: One of `QOS`; None if the source does not say.
        spelled: How people write each field in this source.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    qos: str | None = None
    spelled: Callable[[str], str] = field(default=str, compare=False)


NOTHING_SAID: Final = Said()
#: The defaults.
BUILT_IN: Final = Said(
    {CPU_REQUEST: "50m", CPU_LIMIT: "", MEMORY_REQUEST: "128Mi", MEMORY_LIMIT: "1Gi"}, QOS[0]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Requests and limits of the puller; an empty quantity is left out.

    Attributes:
        notes: Values that follow one of the strongest source.
    """

    cpu_request: str = ""
    cpu_limit: str = ""
    memory_request: str = ""
    memory_limit: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_guaranteed(self) -> bool:
        """Whether a pod of the class Guaranteed keeps its class with this puller."""
        if not (self.cpu_limit and self.memory_limit):
            return False
        cpu, memory = self.cpu_request or self.cpu_limit, self.memory_request or self.memory_limit
        is_cpu_equal = parse_millicores(cpu) == parse_millicores(self.cpu_limit)
        return is_cpu_equal and parse_bytes(memory) == parse_bytes(self.memory_limit)


def settle(*sources: Said) -> Resources:
    """Combine the values of the sources, from the weakest to the strongest.

    Raises:
        ResourcesDisagree: one of them contradicts itself.
    """
    sources = (BUILT_IN, *sources)
    notes: list[str] = []
    cpu = _pair(sources, (CPU_REQUEST, CPU_LIMIT), parse_millicores, notes)
    memory = _pair(sources, (MEMORY_REQUEST, MEMORY_LIMIT), parse_bytes, notes)
    return Resources(
        cpu_request=cpu[0],
        cpu_limit=cpu[1],
        memory_request=memory[0],
        memory_limit=memory[1],
        notes=tuple(notes),
    )


def _pair(
    sources: Sequence[Said],
    fields: tuple[str, str],
    measure: Callable[[str], int],
    notes: list[str],
) -> tuple[str, str]:
    """Settle a request and its limit."""
    asked_by, most_by = (_strongest(sources, field) for field in fields)
    request, limit = sources[asked_by].values[fields[0]], sources[most_by].values[fields[1]]
    is_over = bool(request and limit) and measure(request) > measure(limit)
    if is_over and asked_by == most_by:
        raise ResourcesDisagree(
            f"{_spell(sources[asked_by], fields[0], request)} is more than "
            f"{_spell(sources[asked_by], fields[1], limit)}: lower the request or raise the limit"
        )
    qos_by = max(at for at, source in enumerate(sources) if source.qos is not None)
    if sources[qos_by].qos == GUARANTEED:
        return _equal(sources, fields, (asked_by, most_by, qos_by), measure)
    if not is_over:
        return request, limit
    stronger, value = (asked_by, request) if asked_by > most_by else (most_by, limit)
    said = _spell(sources[stronger], fields[asked_by < most_by], value)
    follower = fields[asked_by > most_by].replace("_", " ")
    if stronger == len(sources) - 1:
        notes.append(f"{said} also sets the puller's {follower} to {value}")
    return value, value


def _equal(
    sources: Sequence[Said],
    fields: tuple[str, str],
    said_by: tuple[int, int, int],
    measure: Callable[[str], int],
) -> tuple[str, str]:
    """Make request and limit equal, unless a stronger source has two values."""
    asked_by, most_by, qos_by = said_by
    request, limit = sources[asked_by].values[fields[0]], sources[most_by].values[fields[1]]
    if request and limit and asked_by == most_by and measure(request) != measure(limit):
        if asked_by > qos_by:
            return request, limit
        if asked_by == qos_by:
            source = sources[qos_by]
            raise ResourcesDisagree(
                f"{_spell(source, 'qos', GUARANTEED)} needs a request that is equal to its limit, "
                f"and {_spell(source, fields[0], request)} is not "
                f"{_spell(source, fields[1], limit)}: make them equal, or leave one out"
            )
    value = request if (request and asked_by > most_by) or not limit else limit
    return value, value


def _strongest(sources: Sequence[Said], name: str) -> int:
    return max(at for at, source in enumerate(sources) if name in source.values)


def _spell(source: Said, name: str, value: str) -> str:
    return f"{source.spelled(name)}={value}"
