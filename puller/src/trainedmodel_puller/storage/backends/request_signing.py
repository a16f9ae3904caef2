"""Decides whether requests to an object store are signed.

By default, a client without credentials asks the metadata service of the node. Without such a
service that costs time, and with one the client gets the node's own rights. Here credentials come
from the named profile or the environment (workload identities come that way on EKS and AKS).
Without any, requests are unsigned: a public bucket then works, and a private one is refused at
once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

_METADATA_PROBE_S: Final = 1.0
_METADATA_REQUEST: Final = (
    b"GET / HTTP/1.1\r\nHost: metadata.google.internal\r\nMetadata-Flavor: Google\r\n"
    b"Connection: close\r\n\r\n"
)

#: Any one full set is enough to sign with.
_SIGNING_SETS: Final[dict[str, tuple[frozenset[str], ...]]] = {
    "s3": (
        frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}),
        frozenset({"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"}),
        frozenset({"AWS_CONTAINER_CREDENTIALS_FULL_URI"}),
        frozenset({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"}),
    ),
    "gs": tuple(
        frozenset({f"GOOGLE_{name}"})
        for name in (
            "SERVICE_ACCOUNT",
            "SERVICE_ACCOUNT_PATH",
            "SERVICE_ACCOUNT_KEY",
            "APPLICATION_CREDENTIALS",
            "BEARER_TOKEN",
        )
    ),
    "az": (
        *(
            frozenset({f"AZURE_{name}"})
            for name in (
                "STORAGE_ACCOUNT_KEY",
                "STORAGE_ACCESS_KEY",
                "STORAGE_MASTER_KEY",
                "STORAGE_SAS_KEY",
                "STORAGE_SAS_TOKEN",
                "STORAGE_TOKEN",
                "STORAGE_USE_EMULATOR",
                "USE_AZURE_CLI",
                "MSI_ENDPOINT",
                "IDENTITY_ENDPOINT",
            )
        ),
        frozenset({"AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"}),
        frozenset({"AZURE_STORAGE_CLIENT_ID", "AZURE_STORAGE_CLIENT_SECRET"}),
        frozenset({"AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"}),
    ),
}
_SKIP_SIGNATURE: Final = {
    "s3": "AWS_SKIP_SIGNATURE",
    "gs": "GOOGLE_SKIP_SIGNATURE",
    "az": "AZURE_SKIP_SIGNATURE",
}


def can_sign(provider: str, variables: Mapping[str, str]) -> bool:
    """Return whether the variables hold something to sign requests with."""
    if variables.get(_SKIP_SIGNATURE[provider], "").lower() in {"1", "true", "yes", "on"}:
        return False
    present = {name for name, value in variables.items() if value}
    return any(names <= present for names in _SIGNING_SETS[provider])


async def has_metadata_service(address: str = "169.254.169.254", port: int = 80) -> bool:
    """Return whether Google's metadata service answers at once; other clouds' do not count."""
    try:
        async with asyncio.timeout(_METADATA_PROBE_S):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(_METADATA_REQUEST)
                head = await reader.readuntil(b"\r\n\r\n")
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return False  # a TimeoutError is an OSError
    return b"\r\nmetadata-flavor: google\r\n" in head.lower()
