"""What the storage back ends can be told: one frozen value, made from the puller's flags.

Defaults suit a pod: no local folder may be read, no cloud metadata service is asked for
credentials unless that is the platform's only way, and no link-local address is connected to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
            (`s3` then needs s3fs, `gs` gcsfs, `abfs` and `az` adlfs).
    """

    file_roots: tuple[Path, ...] = ()
    pvc_root: Path | None = None
    profiles_dir: Path | None = None
    instance_metadata: bool | None = None
    denied_networks: tuple[str, ...] = METADATA_NETWORKS
    connect_timeout_s: float = 5.0
    answer_timeout_s: float = 30.0
    fsspec_schemes: frozenset[str] = frozenset()
