"""Making an obstore client from a URI's bucket, credentials and settings.

The URI names a bucket, never a host: an account or bucket name with anything but a name's
characters is refused, or credentials could be sent to an address of the URI's choosing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from obstore.store import AzureStore, GCSStore, S3Store
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri

from trainedmodel_puller.core.proxies import NODE_NETWORKS, proxy_for
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.outbound import certificates
from trainedmodel_puller.storage.backends.profiles import S3_ENDPOINTS, Credentials, translated
from trainedmodel_puller.storage.settings import StorageSettings

if TYPE_CHECKING:
    from obstore.store import (
        AzureCredential,
        ClientConfig,
        ObjectStore,
        RetryConfig,
        S3Credential,
    )

#: Schemes that obstore serves, and whose words their variables are.
PROVIDERS: Final = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "azure": "az",
    "abfs": "az",
    "abfss": "az",
    "wasb": "az",
    "wasbs": "az",
}
_BUCKET: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,221}")
_AZURE_AUTHORITY: Final = re.compile(
    r"(?P<container>[A-Za-z0-9$](?:[A-Za-z0-9-]){0,62})"
    r"(?:@(?P<account>[a-z0-9]{1,63})\.(?:dfs|blob)\.core\.windows\.net)?"
)
_ENDPOINTS: Final = {
    "s3": S3_ENDPOINTS,
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
#: A profile may hold more than the client knows (KServe's Secrets do); the rest is left out.
_S3_KEYS: Final = {
    "AWS_ACCESS_KEY_ID": "access_key_id",
    "AWS_SECRET_ACCESS_KEY": "secret_access_key",
    "AWS_SESSION_TOKEN": "session_token",
    "AWS_REGION": "region",
    "AWS_DEFAULT_REGION": "default_region",
    "AWS_ROLE_ARN": "role_arn",
    "AWS_ROLE_SESSION_NAME": "role_session_name",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "web_identity_token_file",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "container_credentials_relative_uri",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "container_credentials_full_uri",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "container_authorization_token_file",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "virtual_hosted_style_request",
    "AWS_REQUEST_PAYER": "request_payer",
}
_GS_KEYS: Final = {
    "GOOGLE_SERVICE_ACCOUNT": "service_account",
    "GOOGLE_SERVICE_ACCOUNT_PATH": "service_account",
    "GOOGLE_SERVICE_ACCOUNT_KEY": "service_account_key",
    "GOOGLE_APPLICATION_CREDENTIALS": "application_credentials",
    "GOOGLE_BEARER_TOKEN": "bearer_token",
    "GOOGLE_BASE_URL": "base_url",
}
_AZ_KEYS: Final = {
    "AZURE_STORAGE_ACCOUNT_NAME": "account_name",
    "AZURE_STORAGE_ACCOUNT_KEY": "account_key",
    "AZURE_STORAGE_ACCESS_KEY": "account_key",
    "AZURE_STORAGE_MASTER_KEY": "account_key",
    "AZURE_STORAGE_SAS_TOKEN": "sas_key",
    "AZURE_STORAGE_SAS_KEY": "sas_key",
    "AZURE_STORAGE_TOKEN": "token",
    "AZURE_STORAGE_ENDPOINT": "endpoint",
    "AZURE_ENDPOINT": "endpoint",
    "AZURE_AUTHORITY_HOST": "authority_host",
    "AZURE_CLIENT_ID": "client_id",
    "AZURE_CLIENT_SECRET": "client_secret",
    "AZURE_TENANT_ID": "tenant_id",
    "AZURE_FEDERATED_TOKEN_FILE": "federated_token_file",
}
#: What the client reads from the environment and prefers to a role, a key file or a secret.
_RIVALS: Final = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "gs": (
        *("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH"),
        *("GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_BEARER_TOKEN"),
    ),
    "az": (
        *("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_MASTER_KEY"),
        *("AZURE_STORAGE_TOKEN", "AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_SAS_TOKEN"),
    ),
}
#: Any of these tells the client which account it is, or that it needs none.
_AZURE_PLACES: Final = (
    *("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_ACCOUNT_NAME", "AZURE_STORAGE_USE_EMULATOR"),
    *("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
)
#: Retries are the planner's, which shows them; one here hides a connection closed while idle.
_RETRIES: Final = 1
_NO_LIMIT: Final = timedelta(days=7)


def make_client(
    uri: StorageUri, credentials: Credentials, *, is_anonymous: bool, settings: StorageSettings
) -> ObjectStore:
    """Make the client of a URI's bucket; blocks shortly, for it may read credential files."""
    provider = PROVIDERS[uri.scheme]
    values = credentials.values
    # A profile has the environment's places already, if they are meant for it.
    variables = values if credentials.is_profile else {**translated(os.environ), **values}
    shared: dict[str, Any] = {
        "client_options": _client_options(provider, variables, settings),
        "retry_config": _retry(settings),
        # Said either way: the environment's word must not decide for a profile.
        "skip_signature": is_anonymous,
    }
    if provider == "az":
        return _azure(uri, credentials, shared)
    if _BUCKET.fullmatch(uri.authority) is None:
        raise SourceFault(Reason.INVALID_URI, f"{uri}: not a bucket name after {uri.scheme}://")
    if provider == "gs":
        _check_rivals(provider, credentials, is_anonymous=is_anonymous)
        return GCSStore(uri.authority, **_known(_GS_KEYS, values), **shared)
    config = s3_config(uri.authority, values)
    if credentials.is_profile and values.get("AWS_SECRET_ACCESS_KEY"):
        # Handed over as one: a session token of the environment must not join a profile's key.
        key: S3Credential = {
            "access_key_id": config.pop("access_key_id", ""),
            "secret_access_key": config.pop("secret_access_key"),
            "token": config.pop("session_token", None),
            "expires_at": None,
        }
        shared["credential_provider"] = lambda: key
    else:
        _check_rivals(provider, credentials, is_anonymous=is_anonymous)
    return S3Store(uri.authority, **config, **shared)


def s3_config(bucket: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Return the client's settings for a bucket: pure.

    If the endpoint has the bucket in its host name, the client must send it there.
    """
    config = _known(_S3_KEYS, values)
    endpoint = next((values[name] for name in S3_ENDPOINTS if values.get(name)), "")
    is_virtual = values.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() == "true"
    if endpoint and is_virtual:
        scheme, _, rest = endpoint.partition("://")
        if not rest.startswith(f"{bucket}."):
            endpoint = f"{scheme}://{bucket}.{rest}"
    if endpoint:
        # Both, for the client reads the second from the environment by itself and prefers it.
        config["endpoint"] = config["aws_endpoint_url_s3"] = endpoint
    return config


def _check_rivals(provider: str, credentials: Credentials, *, is_anonymous: bool) -> None:
    """Refuse a profile whose role the client would give up for a key of the environment."""
    rivals = [
        name
        for name in _RIVALS[provider]
        if os.environ.get(name) and name not in credentials.values
    ]
    if credentials.is_profile and rivals and not is_anonymous:
        raise SourceFault(
            Reason.ACCESS_DENIED,
            f"{rivals[0]} in the puller's environment would go before the credential profile: "
            "move it into a profile of its own",
        )


def _azure(uri: StorageUri, credentials: Credentials, shared: dict[str, Any]) -> ObjectStore:
    match = _AZURE_AUTHORITY.fullmatch(uri.authority)
    if match is None:
        raise SourceFault(
            Reason.INVALID_URI,
            f"{uri}: must be {uri.scheme}://container/path or "
            f"{uri.scheme}://container@account.dfs.core.windows.net/path",
        )
    config = _known(_AZ_KEYS, credentials.values)
    if match["account"]:
        config["account_name"] = match["account"]
    if not config.get("account_name") and not any(os.environ.get(n) for n in _AZURE_PLACES):
        raise SourceFault(
            Reason.INVALID_URI,
            f"{uri}: names no storage account: set AZURE_STORAGE_ACCOUNT_NAME or write "
            "abfs://container@account.dfs.core.windows.net/path",
        )
    secret: AzureCredential | None = None
    if "account_key" in config:
        secret = {"access_key": config.pop("account_key"), "expires_at": None}
    elif "sas_key" in config:
        secret = {"sas_token": config.pop("sas_key").removeprefix("?"), "expires_at": None}
    if secret is not None:
        # The client would prefer a key of the environment to a profile's token.
        shared["credential_provider"] = lambda: secret
    else:
        _check_rivals("az", credentials, is_anonymous=shared["skip_signature"])
    return AzureStore(match["container"], **config, **shared)


def _client_options(
    provider: str, variables: Mapping[str, str], settings: StorageSettings
) -> ClientConfig:
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=settings.connect_timeout_s),
        "timeout": _NO_LIMIT,
        "pool_idle_timeout": timedelta(seconds=30),
    }
    endpoint = next((variables[name] for name in _ENDPOINTS[provider] if variables.get(name)), "")
    if endpoint.startswith("http://"):
        options["allow_http"] = True  # the configured endpoint asks for it
    if provider == "s3" and variables.get("S3_VERIFY_SSL") == "0":
        options["allow_invalid_certificates"] = True
    trusted = certificates(variables, *(("AWS_CA_BUNDLE",) if provider == "s3" else ()))
    if trusted:
        options["root_certificate"] = trusted
    _choose_proxy(options, endpoint, variables)
    return options


def _choose_proxy(options: ClientConfig, endpoint: str, variables: Mapping[str, str]) -> None:
    """Say which proxy the client uses: by itself it reads the environment in its own way."""
    url = urlsplit(endpoint or "https://store.invalid")
    try:
        everything = {**variables, "NO_PROXY": ""}
        proxy = proxy_for(url.scheme, url.hostname or "", url.port, everything)
        if proxy is None:
            return
        options["proxy_url"] = proxy
        excluded = [NODE_NETWORKS, variables.get("NO_PROXY", "")]
        if endpoint and proxy_for(url.scheme, url.hostname or "", url.port, variables) is None:
            excluded.append(url.hostname or "")  # the client knows no ports in its list
        options["proxy_excludes"] = ",".join(entry for entry in excluded if entry)
    except ValueError as error:
        raise SourceFault(Reason.SOURCE_ERROR, str(error)) from None


def _retry(settings: StorageSettings) -> RetryConfig:
    return {
        "max_retries": _RETRIES,
        "retry_timeout": timedelta(seconds=settings.answer_timeout_s),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=1),
            "base": 2,
        },
    }


def _known(keys: Mapping[str, str], values: Mapping[str, str]) -> dict[str, Any]:
    return {keys[name]: value for name, value in values.items() if name in keys and value}
