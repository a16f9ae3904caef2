"""Which credentials an object store's client gets, and when it goes without.

Left alone, a client without credentials asks the metadata service of the node: a wait where there
is none, and the node's own rights where there is one. Here credentials are those of the named
profile or of the environment (workload identities come that way on EKS and AKS); without any,
requests go out unsigned. A public bucket then works, and a private one is refused at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.errors import SourceFault

_MAX_VALUE_BYTES: Final = 65_536
_METADATA_PROBE_S: Final = 1.0
_GOOGLE_FILES: Final = ("gcloud-application-credentials.json", "service-account.json", "key.json")

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
_PREFIX: Final = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Variables for one provider's client.

    Attributes:
        values: By environment variable name. Empty for the process's own environment, which the
            client reads itself. Never shown: `repr` leaves them out.
        is_profile: They come from a named profile, and the environment's must not mix in.
    """

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    is_profile: bool = False


def read_profile(folder: Path, provider: str) -> Credentials:
    """Read a profile's variables for a provider; blocks.

    Raises:
        SourceFault: there is no such profile, or a file of it cannot be read.
    """
    values: dict[str, str] = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.name in _GOOGLE_FILES:
                values["GOOGLE_APPLICATION_CREDENTIALS"] = str(path)
            elif not path.name.startswith(".") and path.is_file():
                values[path.name] = path.read_bytes()[:_MAX_VALUE_BYTES].decode().strip("\n")
    except FileNotFoundError:
        raise SourceFault(
            Reason.ACCESS_DENIED, f"credential profile {folder.name!r} is not mounted into this pod"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceFault(
            Reason.ACCESS_DENIED,
            f"credential profile {folder.name!r} is not readable: {type(error).__name__}",
        ) from None
    prefix = _PREFIX[provider]
    return Credentials({k: v for k, v in values.items() if k.startswith(prefix)}, is_profile=True)


def can_sign(provider: str, variables: Mapping[str, str]) -> bool:
    """Say whether the variables hold something to sign requests with."""
    if variables.get(_SKIP_SIGNATURE[provider], "").lower() in {"1", "true", "yes", "on"}:
        return False
    present = {name for name, value in variables.items() if value}
    return any(names <= present for names in _SIGNING_SETS[provider])


async def has_metadata_service(address: str = "169.254.169.254", port: int = 80) -> bool:
    """Say whether a metadata service accepts a connection at once."""
    try:
        async with asyncio.timeout(_METADATA_PROBE_S):
            _, writer = await asyncio.open_connection(address, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True
