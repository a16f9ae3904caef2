"""Canonical JSON: equal values give equal bytes.

Keys are sorted. There is no white space, no escaped UTF-8, and no null: such a key is left out.
Revisions, digests and entries are computed over these bytes, so the form is part of the contract.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json


def canonical_json(value: Mapping[str, Any]) -> str:
    """Render a mapping of JSON values; None values at its top level are left out.

    Raises:
        ValueError: a value is NaN or infinite.
        TypeError: a value is not a JSON value.
    """
    present = {key: item for key, item in value.items() if item is not None}
    return json.dumps(
        present, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def sha256_hex(text: str) -> str:
    """Return the sha256 of a text's UTF-8 bytes, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_json(text: str | bytes) -> Any:
    """Parse untrusted JSON.

    Python's own parser accepts values that cannot be written again (lone surrogates, NaN), guesses
    encodings, and raises RecursionError for deep nesting. This one only ever raises ValueError.

    Raises:
        ValueError: it is not JSON in UTF-8, or is nested more than 200 deep.
    """
    return from_json(text, allow_inf_nan=False)
