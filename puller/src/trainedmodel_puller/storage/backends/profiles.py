"""Credentials and addresses of stores as variables, from the environment or a profile's files.

Variables have several spellings: those of the stores' own tools, and those of KServe, in its
agent's environment and its Secrets (`S3_ENDPOINT`, `S3_USE_HTTPS`, `awsAnonymousCredential`,
`AZ_CLIENT_ID`). `translated` brings all of them into one spelling; it is pure, and used for the
environment and profiles alike. The spelling of the stores' tools has priority over KServe's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.proxies import PROXY_VARIABLES, WAY_VARIABLES
from trainedmodel_puller.errors import SourceFault

#: A Secret has no more.
_MAX_VALUE_BYTES: Final = 1024 * 1024
_GOOGLE_FILES: Final = ("gcloud-application-credentials.json", "service-account.json", "key.json")
_TRUE: Final = frozenset({"1", "true", "yes", "on", "t", "y"})
_FALSE: Final = frozenset({"0", "false", "no", "off", "f", "n"})
#: KServe's older spelling of Azure's variables.
_AZURE_ALIASES: Final = {
    "AZ_CLIENT_ID": "AZURE_CLIENT_ID",
    "AZ_CLIENT_SECRET": "AZURE_CLIENT_SECRET",
    "AZ_TENANT_ID": "AZURE_TENANT_ID",
    "AZ_STORAGE_ACCOUNT_NAME": "AZURE_STORAGE_ACCOUNT_NAME",
    "AZ_STORAGE_ACCESS_KEY": "AZURE_STORAGE_ACCESS_KEY",
}
#: The second is what KServe's injector writes, a slip of the pen that became its spelling.
_VIRTUAL_BUCKET: Final = ("S3_USE_VIRTUAL_BUCKET", "S3_USER_VIRTUAL_BUCKET")
#: Where an endpoint of S3 may be named, the first that is set counts.
S3_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
#: Addresses of stores, not credentials: a profile without them uses those of the environment.
PLACES: Final = frozenset(
    {
        *S3_ENDPOINTS,
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
        "AWS_CA_BUNDLE",
        "S3_VERIFY_SSL",
        *WAY_VARIABLES,
        "GOOGLE_BASE_URL",
        "AZURE_STORAGE_ENDPOINT",
        "AZURE_ENDPOINT",
        "HF_ENDPOINT",
    }
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Variables for one store's client.

    Attributes:
        values: By environment variable name, translated. Never shown: `repr` leaves them out.
        is_profile: They come from a named profile, and the environment's must not mix in.
        stamp: Changes with the content of the files that the values name.
    """

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    is_profile: bool = False
    stamp: str = field(default="", repr=False)


def read_profile(folder: Path) -> Credentials:
    """Read a profile's variables, translated; blocks.

    A file is named like the variable that it holds. Google's key files go by the names that they
    are usually given, or by `GOOGLE_APPLICATION_CREDENTIALS`, which may hold the key itself.

    Raises:
        SourceFault: there is no such profile, or a file of it cannot be read.
    """
    values: dict[str, str] = {}
    stamp = hashlib.sha256()
    try:
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or not path.is_file():
                continue
            with path.open("rb") as file:
                raw = file.read(_MAX_VALUE_BYTES)
            is_key_file = path.name in _GOOGLE_FILES or (
                path.name == "GOOGLE_APPLICATION_CREDENTIALS" and raw.lstrip().startswith(b"{")
            )
            if is_key_file:
                values["GOOGLE_APPLICATION_CREDENTIALS"] = str(path)
                stamp.update(raw)
            else:
                values[path.name] = raw.decode().strip("\r\n")
    except FileNotFoundError:
        raise SourceFault(
            Reason.ACCESS_DENIED, f"credential profile {folder.name!r} is not mounted into this pod"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceFault(
            Reason.ACCESS_DENIED,
            f"credential profile {folder.name!r} is not readable: {type(error).__name__}",
        ) from None
    return Credentials(translated(values), is_profile=True, stamp=stamp.hexdigest())


def ambient(environ: Mapping[str, str]) -> Credentials:
    """Return the environment's places, and what else a client that reads it would not see."""
    found = translated(environ)
    return Credentials({k: v for k, v in found.items() if k in PLACES or environ.get(k) != v})


def with_places(profile: Credentials, environ: Mapping[str, str]) -> Credentials:
    """Add the environment's places (endpoint, region, trust) that a profile does not name."""
    places = {k: v for k, v in translated(environ).items() if k in PLACES}
    if any(name in profile.values for name in S3_ENDPOINTS):
        # An endpoint of its own is another store: nothing of the environment's is true of it.
        places = {k: v for k, v in places.items() if not k.startswith(("AWS_", "S3_"))}
    return Credentials({**places, **profile.values}, profile.is_profile, profile.stamp)


def translated(variables: Mapping[str, str]) -> dict[str, str]:
    """Bring KServe's spellings into those of the stores' own tools; empty values are left out.

    `S3_ENDPOINT` with `S3_USE_HTTPS` becomes `AWS_ENDPOINT_URL` unless that is set,
    `awsAnonymousCredential` becomes `AWS_SKIP_SIGNATURE`, `S3_USE_VIRTUAL_BUCKET` becomes
    `AWS_VIRTUAL_HOSTED_STYLE_REQUEST`, `AZ_...` becomes `AZURE_...`, `https_proxy` and the like
    go before `HTTPS_PROXY`. `S3_VERIFY_SSL` is kept as
    `0` if it is off, and `AWS_CA_BUNDLE` as it is.
    """
    found = {name: text for name, text in variables.items() if text and name not in _SPELLINGS}
    for name in PROXY_VARIABLES:
        if variables.get(name.lower()):
            found[name] = variables[name.lower()]  # goes first, as with curl
    for old, new in _AZURE_ALIASES.items():
        if variables.get(old):
            found.setdefault(new, variables[old])
    endpoint = variables.get("S3_ENDPOINT", "")
    if endpoint and not any(name in found for name in S3_ENDPOINTS):
        is_plain = _is(variables, "S3_USE_HTTPS", _FALSE)
        scheme = "http" if is_plain else "https"
        url = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
        found["AWS_ENDPOINT_URL"] = url.rstrip("/")
    if _is(variables, "awsAnonymousCredential", _TRUE):
        found.setdefault("AWS_SKIP_SIGNATURE", "true")
    if any(_is(variables, name, _TRUE) for name in _VIRTUAL_BUCKET):
        found.setdefault("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    if _is(variables, "S3_VERIFY_SSL", _FALSE):
        found["S3_VERIFY_SSL"] = "0"
    return found


_SPELLINGS: Final = frozenset(
    {
        *("S3_ENDPOINT", "S3_USE_HTTPS", "S3_VERIFY_SSL", *_VIRTUAL_BUCKET),
        *("awsAnonymousCredential", *_AZURE_ALIASES),
        *(name.lower() for name in PROXY_VARIABLES),
    }
)


def _is(variables: Mapping[str, str], name: str, words: frozenset[str]) -> bool:
    return variables.get(name, "").strip().lower() in words
