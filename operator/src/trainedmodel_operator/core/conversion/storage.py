"""`storage:` of KServe and ModelMesh: turns the key of a Secret, path and parameters into a URI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trainedmodel_operator.core.conversion.entries import STORAGE_CONFIG, Entry, kind_of
from trainedmodel_operator.core.conversion.result import Field, Unconvertible, part, shown
from trainedmodel_operator.core.document import Document

#: Parameters that become part of the address, by kind of store.
_PLACES: Final = {
    "s3": ("bucket",),
    "gs": ("bucket",),
    "azure": ("account_name", "container", "connection_string"),
    "pvc": ("name",),
    "http": ("url",),
    "https": ("url",),
    "hf": (),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A model's `storage:`, and where the manifest has it.

    Attributes:
        path: Path of `storage` in the manifest.
        model_path: The model's path in its store.
        key: Key of the Secret `storage-config`.
        parameters: What overrides the Secret's entry.
        bucket: A bucket that is named in another way.
        claim: A claim that is named in another way.
    """

    path: str
    model_path: Field
    key: Field
    parameters: Document
    bucket: Field | None = None
    claim: Field | None = None

    @property
    def is_given(self) -> bool:
        """Whether the manifest has anything of it."""
        return bool(self.model_path.value or self.key.value or self.parameters)


def storage_address(storage: Storage, entry: Entry | None, bucket: str) -> tuple[Field, list[str]]:
    """Put an address together from a model's storage, and say what is lost of it.

    Raises:
        Unconvertible: something is missing, or the puller does not read such a store.
    """
    inner = storage.model_path.text().strip("/")
    if not inner:
        raise Unconvertible(f"{storage.model_path.path} is missing: say where the model is")
    values = {**((entry and entry.values) or {}), **storage.parameters}
    kind = _kind(storage, values)
    notes = []
    if not kind:
        kind = "s3"
        if storage.key.value:
            notes.append(
                f"{storage.key}: no Secret {STORAGE_CONFIG} in the input has this key, so the "
                "store is taken for S3: convert that Secret too, or write "
                f"{storage.path}.parameters.type"
            )
    notes += [
        f"{storage.path}.parameters.{name} is lost: set it in the credential profile"
        for name in storage.parameters
        if name != "type" and name not in _PLACES.get(kind, ())
    ]
    text = _address(kind, storage, values, inner, bucket)
    return Field(f"{storage.path} (as {shown(text)})", text), notes


def _kind(storage: Storage, values: Mapping[str, Any]) -> str:
    if storage.claim is not None:
        return "pvc"
    word = values.get("type")
    kind = kind_of(word) if isinstance(word, str) else ""
    if kind and kind not in _PLACES:
        raise Unconvertible(
            f"{storage.path}: its store is of the type {shown(word)}, which the puller does not "
            "read: copy the model to another store, or mount it as a claim (pvc)"
        )
    return kind


def _address(
    kind: str, storage: Storage, values: Mapping[str, Any], inner: str, bucket: str
) -> str:
    path = storage.path
    if kind == "pvc":
        name = storage.claim.text() if storage.claim else str(values.get("name") or "")
        if not name:
            raise Unconvertible(f"{path}.parameters.name is missing: name the claim")
        return f"pvc://{name}/{inner}"
    if kind in {"http", "https"}:
        url = str(values.get("url") or "").rstrip("/")
        if not url:
            raise Unconvertible(
                f"{path}.parameters.url is missing, and so is `url` in the Secret {STORAGE_CONFIG}"
            )
        return f"{url}/{inner}"
    if kind == "hf":
        return f"hf://{inner}"
    if kind == "azure":
        return _azure(path, values, inner)
    named = storage.bucket.text() if storage.bucket else ""
    named = named or str(values.get("bucket") or values.get("default_bucket") or "") or bucket
    if not named:
        raise Unconvertible(
            f"{path}.parameters.bucket is missing: name the bucket with --bucket, or convert the "
            f"Secret {STORAGE_CONFIG} too, if it has a default_bucket"
        )
    return f"{kind}://{named}/{inner}"


def _azure(path: str, values: Mapping[str, Any], inner: str) -> str:
    settings = connection_settings(str(values.get("connection_string") or ""))
    account = str(values.get("account_name") or settings.get("accountname") or "")
    container = str(values.get("container") or "")
    missing = [
        name for name, value in (("account_name", account), ("container", container)) if not value
    ]
    if missing:
        raise Unconvertible(
            f"{path}.parameters.{missing[0]} is missing: write it, or convert the Secret "
            f"{STORAGE_CONFIG} too"
        )
    return f"abfss://{container}@{account}.dfs.core.windows.net/{inner}"


def connection_settings(text: str) -> dict[str, str]:
    """Return the settings of one of Azure's connection strings, by their names in lower case."""
    pairs = (one.partition("=") for one in text.split(";") if "=" in one)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def storage_of(model: Document, where: str, key: Field) -> Storage:
    """Read `storage:` below a model; a key that is named elsewhere serves if it has none."""
    path = f"{where}.storage"
    storage = part(model, "storage")
    return Storage(
        path=path,
        model_path=Field(f"{path}.path", storage.get("path")),
        key=Field(f"{path}.key", storage["key"]) if storage.get("key") else key,
        parameters=part(storage, "parameters"),
    )
