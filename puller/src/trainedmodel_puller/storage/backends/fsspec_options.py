"""The arguments of fsspec's file systems, from credential variables.

The file systems of the object stores read the environment by themselves, each in its own way.
Variables in KServe's spelling and variables of a profile are passed as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.proxies import TRUST_VARIABLES, proxy_for
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.object_clients import PROVIDERS
from trainedmodel_puller.storage.backends.profiles import S3_ENDPOINTS
from trainedmodel_puller.storage.backends.request_signing import can_sign

#: Schemes that take a credential profile.
PROFILE_SCHEMES: Final = frozenset(PROVIDERS)
_S3_TRUST: Final = ("AWS_CA_BUNDLE", *TRUST_VARIABLES)
_AZURE: Final = {
    "AZURE_STORAGE_ACCOUNT_NAME": "account_name",
    "AZURE_STORAGE_ACCOUNT_KEY": "account_key",
    "AZURE_STORAGE_ACCESS_KEY": "account_key",
    "AZURE_STORAGE_SAS_TOKEN": "sas_token",
    "AZURE_STORAGE_CONNECTION_STRING": "connection_string",
    "AZURE_CLIENT_ID": "client_id",
    "AZURE_CLIENT_SECRET": "client_secret",
    "AZURE_TENANT_ID": "tenant_id",
}


def fsspec_options(
    scheme: str, values: Mapping[str, str], *, is_profile: bool, is_anonymous: bool
) -> dict[str, Any]:
    """Return the arguments for a scheme's file system: pure.

    Args:
        scheme: As in the URI.
        values: Translated variables: all of a profile's, or those of the environment.
        is_profile: They come from a profile, so keys are passed and not left to the environment.
        is_anonymous: There are no credentials; without this the client asks a metadata service.

    Raises:
        SourceFault: AccessDenied: a profile lacks what the scheme needs.
    """
    match PROVIDERS.get(scheme, scheme):
        case "s3":
            return _s3(values, is_profile=is_profile, is_anonymous=is_anonymous)
        case "gs":
            options: dict[str, Any] = {}
            if values.get("GOOGLE_BASE_URL"):
                options["endpoint_url"] = values["GOOGLE_BASE_URL"]
            if is_anonymous:
                options["token"] = "anon"  # noqa: S105 -- gcsfs's word for none
            elif is_profile:
                options["token"] = values.get("GOOGLE_APPLICATION_CREDENTIALS")
            return options
        case "az":
            known = {_AZURE[k]: v for k, v in values.items() if k in _AZURE} if is_profile else {}
            return {**known, "anon": is_anonymous}
        case _:
            return {}


def is_unsigned(scheme: str, values: Mapping[str, str]) -> bool:
    """Return whether requests to an object store go out without a signature."""
    provider = PROVIDERS.get(scheme)
    return provider is not None and not can_sign(provider, values)


def _s3(values: Mapping[str, str], *, is_profile: bool, is_anonymous: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"anon": is_anonymous}
    client: dict[str, Any] = {}
    endpoint = next((values[name] for name in S3_ENDPOINTS if values.get(name)), None)
    if endpoint:
        options["endpoint_url"] = endpoint
    region = values.get("AWS_REGION") or values.get("AWS_DEFAULT_REGION")
    if region:
        client["region_name"] = region
    if values.get("S3_VERIFY_SSL") == "0":
        client["verify"] = False
    elif trusted := next((values[n] for n in _S3_TRUST if values.get(n)), None):
        if "\n" in trusted:
            raise SourceFault(Reason.SOURCE_ERROR, "s3fs needs a file of certificates, by its path")
        client["verify"] = trusted
    config: dict[str, Any] = {}
    if values.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() == "true":
        config["s3"] = {"addressing_style": "virtual"}
    url = urlsplit(endpoint or "https://s3.amazonaws.com")
    if proxy := proxy_for(url.scheme, url.hostname or "", url.port, values):
        config["proxies"] = {url.scheme: proxy}
    if config:
        options["config_kwargs"] = config
    if is_profile and not is_anonymous:
        if not values.get("AWS_SECRET_ACCESS_KEY"):
            raise SourceFault(
                Reason.ACCESS_DENIED,
                "a credential profile for s3fs needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        options["key"] = values.get("AWS_ACCESS_KEY_ID", "")
        options["secret"] = values["AWS_SECRET_ACCESS_KEY"]
        options["token"] = values.get("AWS_SESSION_TOKEN") or None
    return {**options, "client_kwargs": client}
