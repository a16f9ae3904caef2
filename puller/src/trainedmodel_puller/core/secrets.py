"""What must not be read by others, and stands in texts that are not ours: pure.

Errors of libraries name the address that they failed at, with its query; a signed link has its
signature there, and whoever has it may read the object.
"""

from __future__ import annotations

import re
from typing import Final

_WITH_QUERY: Final = re.compile(
    r"""(?P<address>\b[a-z][a-z0-9+.-]*://[^\s"'<>?]*)\?[^\s"'<>]*""", re.IGNORECASE
)


def without_queries(text: str) -> str:
    """Cut the query of each address in a text."""
    return _WITH_QUERY.sub(r"\g<address>", text) if "://" in text else text
