"""The Secret `storage-config`: one JSON document for each key, with a store and its credentials.

ModelMesh and KServe read it alike. The operator reads two facts from it: the kind of the store
behind `storage.key`, and the default bucket.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from trainedmodel_operator.core.conversion.result import Unconvertible, part
from trainedmodel_operator.core.document import Document

STORAGE_CONFIG: Final = "storage-config"

#: Kinds of stores by the words for them.
_KINDS: Final = {"s3": "s3", "gcs": "gs", "gs": "gs", "azure": "azure", "az": "azure"}
_KINDS_AS_NAMED: Final = frozenset({"pvc", "http", "https", "hf", "hdfs", "webhdfs"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of `storage-config`.

    Attributes:
        key: As the Secret has it.
        values: The JSON document; None if it is none.
    """

    key: str
    values: Mapping[str, Any] | None

    @property
    def kind(self) -> str:
        """The kind of its store."""
        word = (self.values or {}).get("type")
        return kind_of(word) if isinstance(word, str) else ""


@dataclass(frozen=True, slots=True)
class Entries:
    """The keys of all `storage-config` Secrets of an input, by namespace."""

    by_place: Mapping[tuple[str, str], Entry]

    def find(self, namespace: str, key: str, kind: str = "") -> Entry | None:
        """Return the entry that a model means; without a key, the one named `default`."""
        keys = (key,) if key else ("default", *((f"default_{kind}",) if kind else ()))
        for place in (namespace, ""):
            for one in keys:
                if (place, one) in self.by_place:
                    return self.by_place[place, one]
        return None


def kind_of(word: str) -> str:
    """Return the kind of store that a word stands for; the word itself if it is unknown."""
    lower = word.lower()
    return lower if lower in _KINDS_AS_NAMED else _KINDS.get(lower, lower)


def is_storage_config(document: Document) -> bool:
    """Tell whether a document is the Secret that stores are configured in."""
    metadata = part(document, "metadata")
    return document.get("kind") == "Secret" and metadata.get("name") == STORAGE_CONFIG


def find_entries(documents: Iterable[Document]) -> Entries:
    """Read all keys of all `storage-config` Secrets; what is broken in them is not told here."""
    found: dict[tuple[str, str], Entry] = {}
    for document in documents:
        if not is_storage_config(document):
            continue
        namespace = str(part(document, "metadata").get("namespace") or "")
        for key in secret_keys(document):
            try:
                found[namespace, key] = Entry(key, entry_values(document, key))
            except Unconvertible:
                found[namespace, key] = Entry(key, None)
    return Entries(found)


def entry_values(document: Document, key: str) -> Mapping[str, Any]:
    """Return the JSON document of a key.

    Raises:
        Unconvertible: it is none. Its content is not shown.
    """
    path, text = secret_text(document, key)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, Mapping):
        raise Unconvertible(
            f'{path} is not a JSON document such as {{"type": "s3", ...}}: correct it'
        )
    return values


def secret_keys(document: Document) -> list[str]:
    """List the keys of a Secret."""
    return [str(key) for key in {**part(document, "data"), **part(document, "stringData")}]


def secret_text(document: Document, key: str) -> tuple[str, str]:
    """Return the path and the text of a key of a Secret; `stringData` goes before `data`.

    Raises:
        Unconvertible: it cannot be read. Its content is not shown.
    """
    if key in part(document, "stringData"):
        path, value = f"stringData[{key}]", part(document, "stringData")[key]
        if isinstance(value, str):
            return path, value
        raise Unconvertible(f"{path} must be text: put it in quotes")
    path, value = f"data[{key}]", part(document, "data").get(key)
    try:
        return path, base64.b64decode(str(value or ""), validate=True).decode()
    except (binascii.Error, ValueError):
        raise Unconvertible(f"{path} is not text in base64: correct it") from None
