"""Settings of the storage back ends: one frozen value, made from the puller's flags.

Defaults suit a pod: no local folder may be read, no cloud metadata service is asked for credentials
unless the platform has no other way, and no connection to a link-local address is made.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainedmodel_puller.errors import SettingsError
from trainedmodel_puller.storage.listing import MAX_LISTING

#: Addresses that no model lies at, but a node's or a cloud's secrets do.
METADATA_NETWORKS: Final = (
    "169.254.0.0/16",  # IPv4 link-local: metadata of AWS, Google, Azure, ECS, EKS pod identity
    "fe80::/10",  # IPv6 link-local
    "fd00:ec2::/32",  # AWS over IPv6: 254 is metadata, 23 is EKS pod identity
    "fd20:ce::/32",  # Google over IPv6
    "100.100.100.200/32",  # Alibaba
    "168.63.129.16/32",  # Azure wire server
    "192.0.0.192/32",  # Oracle
)
#: The package and the schemes of each object store's fsspec back end.
_FSSPEC_STORES: Final = {
    "s3": ("s3fs", frozenset({"s3", "s3a"})),
    "gs": ("gcsfs", frozenset({"gs", "gcs"})),
    "az": ("adlfs", frozenset({"az", "abfs", "abfss"})),
}


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """Settings of all storage back ends.

    Attributes:
        file_roots: Folders under which `file://` may read (`--file-root`); none by default.
        pvc_root: Folder in which claims are mounted by name (`--pvc-root`): `pvc://claim/x` is
            `<pvc_root>/claim/x`.
        profiles_dir: Folder of credential profiles, each a folder with a file for each variable,
            named like the environment variable that it stands for (a mounted Secret).
        instance_metadata: Whether credentials may come from the node's metadata service. None
            means for Google only, whose workload identity has no other form; and only if the
            service answers at once.
        denied_networks: Addresses that `http(s)://` never connects to, redirects included.
        connect_timeout_s: Limit on making one connection.
        answer_timeout_s: Limit on each answer to a listing request, and on the silence within one.
        fsspec_schemes: Schemes of the object stores that fsspec serves instead of obstore
            (`s3` then needs s3fs, `gs` gcsfs, `abfs` and `az` adlfs); see `fsspec_schemes`.
        allowed_uris: Prefixes that a URI must be below (`--allow-uri`), compared by
            `uri_allowlist`; without any, all URIs are allowed.
        max_listing: Limit of the objects of one model's listing (`--max-listing`).
    """

    file_roots: tuple[Path, ...] = ()
    pvc_root: Path | None = None
    profiles_dir: Path | None = None
    instance_metadata: bool | None = None
    denied_networks: tuple[str, ...] = METADATA_NETWORKS
    connect_timeout_s: float = 5.0
    answer_timeout_s: float = 30.0
    fsspec_schemes: frozenset[str] = frozenset()
    allowed_uris: tuple[str, ...] = ()
    max_listing: int = MAX_LISTING


def fsspec_schemes(choices: Iterable[str]) -> frozenset[str]:
    """Return the schemes that fsspec serves, of what `--storage-backend` says.

    Each choice is `obstore` or `fsspec` for all object stores, or `s3=...`, `gs=...`, `az=...` for
    one of them; a later choice overrides an earlier one. Other schemes have no choice. What fsspec
    has no name for (`wasb`, `wasbs`, `azure`) stays with obstore.

    Raises:
        SettingsError: a choice is not one of those, or its package is not installed.
    """
    chosen: dict[str, str] = {}
    for choice in choices:
        store, mark, backend = choice.rpartition("=")
        stores = (store,) if mark else tuple(_FSSPEC_STORES)
        if backend not in {"obstore", "fsspec"} or not set(stores) <= set(_FSSPEC_STORES):
            raise SettingsError(
                f"--storage-backend {choice!a:.100}: must be obstore or fsspec, or one store's, "
                f"like s3=fsspec; stores are {', '.join(_FSSPEC_STORES)}"
            )
        chosen |= dict.fromkeys(stores, backend)
    schemes: set[str] = set()
    for store, backend in chosen.items():
        package, names = _FSSPEC_STORES[store]
        if backend != "fsspec":
            continue
        if importlib.util.find_spec(package) is None:
            raise SettingsError(
                f"--storage-backend: {store}=fsspec needs the package {package}: install "
                f"trainedmodel-puller[{package}], or leave {store} with obstore"
            )
        schemes |= names
    return frozenset(schemes)
