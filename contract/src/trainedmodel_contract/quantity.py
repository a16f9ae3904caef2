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
