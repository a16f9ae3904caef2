"""Messages of the API server, made safe for a status.

The text comes from policies, webhooks and quotas that other people wrote. It is put on one line,
cut to `MOST_WORDS` characters, and loses possible secrets: the login and the query of a URL,
tokens, and long runs of characters that look like keys.

Many texts differ at each try in a port, a duration, a count or an id. `shape` is the text without
such words. Two texts of one shape say the same, so the first is kept, and a status does not change
with each try.
"""

from __future__ import annotations

import re
from typing import Final

MOST_WORDS: Final = 300

_LOGIN: Final = re.compile(r"(?<=://)[^\s/@\"']+@")
_QUERY: Final = re.compile(r"(?<=[^\s?])\?[^\s\"']+=[^\s\"']*")
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"']+")
_KEY: Final = re.compile(r"[A-Za-z0-9+/_=-]{40,}")
_HIDDEN: Final = "[hidden]"


def api_words(said: str) -> str:
    """Return a message of the API server on one line, without secrets, and not too long."""
    # A text without an end is cut before it is searched.
    text = " ".join(said[: 20 * MOST_WORDS].split())
    text = _LOGIN.sub(f"{_HIDDEN}@", text)
    text = _QUERY.sub(f"?{_HIDDEN}", text)
    text = _BEARER.sub(rf"\1 {_HIDDEN}", text)
    text = _KEY.sub(_hide_key, text)
    text = "".join(letter for letter in text if letter.isprintable())
    return text if len(text) <= MOST_WORDS else text[: MOST_WORDS - 3] + "..."


def shape(words: str) -> str:
    """Return the words without those that hold a digit."""
    return " ".join(word for word in words.split() if not any(map(str.isdigit, word)))


def _hide_key(match: re.Match[str]) -> str:
    """Hide runs with capitals, small letters and digits: object names have no capitals."""
    text = match[0]
    kinds = (str.isupper, str.islower, str.isdigit)
    return _HIDDEN if all(any(map(kind, text)) for kind in kinds) else text
