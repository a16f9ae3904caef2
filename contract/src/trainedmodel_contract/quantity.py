"""Kubernetes quantities of memory and processors, and sizes for messages.

The API server accepts `256Mi`, `1.5G`, `1e9`, `500m` and plain integers; the programs compute with
bytes and thousandths of a processor.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

#: The form that the API server's own parser accepts, for the CRD.
QUANTITY_PATTERN: Final = (
    r"^\+?([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)([KMGTPE]i|[mkMGTPE]|[eE][+-]?[0-9]{1,2})?$"
)
_QUANTITY = re.compile(QUANTITY_PATTERN)
_BINARY: Final = {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)}
_DECIMAL: Final = {unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)}
#: 1Ei: a larger value is a typing error, and beyond 64 bits Kubernetes' own parser is wrong.
MAX_BYTES: Final = 2**60
_FACTORS: Final = {**_BINARY, **_DECIMAL, "m": Decimal("0.001")}
_SHOWN: Final = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def parse_bytes(quantity: str | int) -> int:
    """Return a quantity in bytes, rounded up.

    Raises:
        ValueError: it is not a quantity, or is more than 1Ei; the message shows it.
    """
    if isinstance(quantity, int):
        if not 0 <= quantity <= MAX_BYTES:
            raise ValueError(f"quantity {quantity} is negative or too large")
        return quantity
    return int(_parse(quantity).to_integral_value(rounding=ROUND_CEILING))


def parse_millicores(quantity: str | int) -> int:
    """Return a number of processors (`100m`, `0.5`, `2`) in thousandths, rounded up.

    Raises:
        ValueError: it is not a quantity; the message shows it.
    """
    return int((_parse(str(quantity)) * 1000).to_integral_value(rounding=ROUND_CEILING))


def format_bytes(count: int) -> str:
    """Return a size for messages: `1.2 GiB`, `5 B`."""
    return f"{_amount(count, count)} {_unit(count)[0]}"


def format_part(part: int, total: int) -> str:
    """Return a part of a size for messages, both in one unit: `0.5 of 1.2 GiB`."""
    return f"{_amount(part, total)} of {format_bytes(total)}"


def _amount(count: int, like: int) -> str:
    size = _unit(like)[1]
    return f"{count / size:.1f}" if size > 1 else str(count)


def _unit(count: int) -> tuple[str, int]:
    return next((unit for unit in _SHOWN if count >= unit[1]), ("B", 1))


def _parse(quantity: str) -> Decimal:
    match = _QUANTITY.fullmatch(quantity)
    if match is None:
        raise ValueError(f"{quantity!r} is not a quantity such as 256Mi or 1G")
    number, suffix = match.groups()
    if suffix is None:
        value = Decimal(number)
    elif suffix in _FACTORS:
        value = Decimal(number) * _FACTORS[suffix]
    else:
        value = Decimal(number + suffix)
    if value > MAX_BYTES:
        raise ValueError(f"quantity {quantity} is too large")
    return value
