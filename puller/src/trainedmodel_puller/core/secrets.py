"""Removes secrets from the texts of libraries. Pure.

Errors of libraries contain the URL of the failed request, with its query. A signed link has its
signature there, which gives access to the object.
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
