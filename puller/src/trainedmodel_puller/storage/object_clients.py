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

from obstore.store import AzureStore, GCSStore, S3Store
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.credentials import Credentials
from trainedmodel_puller.storage.settings import StorageSettings

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Credential

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
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
#: A profile may hold more than the client knows (KServe's Secrets do); the rest is left out.
_S3_KEYS: Final = {
    "AWS_ACCESS_KEY_ID": "access_key_id",
    "AWS_SECRET_ACCESS_KEY": "secret_access_key",
    "AWS_SESSION_TOKEN": "session_token",
    "AWS_ENDPOINT_URL": "endpoint",
    "AWS_ENDPOINT_URL_S3": "aws_endpoint_url_s3",
    "AWS_REGION": "region",
    "AWS_DEFAULT_REGION": "default_region",
    "AWS_ROLE_ARN": "role_arn",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "web_identity_token_file",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "virtual_hosted_style_request",
    "AWS_REQUEST_PAYER": "request_payer",
}
_GS_KEYS: Final = {
    "GOOGLE_SERVICE_ACCOUNT": "service_account",
    "GOOGLE_SERVICE_ACCOUNT_KEY": "service_account_key",
    "GOOGLE_APPLICATION_CREDENTIALS": "application_credentials",
    "GOOGLE_BEARER_TOKEN": "bearer_token",
    "GOOGLE_BASE_URL": "base_url",
}
_AZ_KEYS: Final = {
    "AZURE_STORAGE_ACCOUNT_NAME": "account_name",
    "AZURE_STORAGE_ACCOUNT_KEY": "account_key",
    "AZURE_STORAGE_ACCESS_KEY": "account_key",
    "AZURE_STORAGE_SAS_TOKEN": "sas_key",
    "AZURE_STORAGE_TOKEN": "token",
    "AZURE_STORAGE_ENDPOINT": "endpoint",
    "AZURE_CLIENT_ID": "client_id",
    "AZURE_CLIENT_SECRET": "client_secret",
    "AZURE_TENANT_ID": "tenant_id",
    "AZURE_FEDERATED_TOKEN_FILE": "federated_token_file",
}
#: Retries are the planner's, which shows them; one here hides a connection closed while idle.
_RETRIES: Final = 1
_NO_LIMIT: Final = timedelta(days=7)


def make_client(
    uri: StorageUri, credentials: Credentials, *, is_anonymous: bool, settings: StorageSettings
) -> ObjectStore:
    """Make the client of a URI's bucket; blocks shortly, for it may read credential files."""
    provider = PROVIDERS[uri.scheme]
    values = credentials.values
    variables = {**os.environ, **values}
    shared: dict[str, Any] = {
        "client_options": _client_options(provider, variables, settings),
        "retry_config": _retry(settings),
    }
    if is_anonymous:
        shared["skip_signature"] = True
    if provider == "az":
        return _azure(uri, values, shared)
    if _BUCKET.fullmatch(uri.authority) is None:
        raise SourceFault(Reason.INVALID_URI, f"{uri}: not a bucket name after {uri.scheme}://")
    if provider == "gs":
        return GCSStore(uri.authority, **_known(_GS_KEYS, values), **shared)
    config = _known(_S3_KEYS, values)
    secret = values.get("AWS_SECRET_ACCESS_KEY")
    if credentials.is_profile and secret:
        # Handed over as one: a session token of the environment must not join a profile's key.
        shared["credential_provider"] = _FixedKey(values)
        for name in ("access_key_id", "secret_access_key", "session_token"):
            config.pop(name, None)
    return S3Store(uri.authority, **config, **shared)


class _FixedKey:
    """Credentials that stay as they are until the profile's files change."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._credential: S3Credential = {
            "access_key_id": values.get("AWS_ACCESS_KEY_ID", ""),
            "secret_access_key": values.get("AWS_SECRET_ACCESS_KEY", ""),
            "token": values.get("AWS_SESSION_TOKEN") or None,
            "expires_at": None,
        }

    def __call__(self) -> S3Credential:
        return self._credential


def _azure(uri: StorageUri, values: Mapping[str, str], shared: dict[str, Any]) -> ObjectStore:
    match = _AZURE_AUTHORITY.fullmatch(uri.authority)
    if match is None:
        raise SourceFault(
            Reason.INVALID_URI,
            f"{uri}: must be {uri.scheme}://container/path or "
            f"{uri.scheme}://container@account.dfs.core.windows.net/path",
        )
    config = _known(_AZ_KEYS, values)
    if match["account"]:
        config["account_name"] = match["account"]
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
        options["allow_http"] = True  # whoever configured it has asked for it
    return options


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
