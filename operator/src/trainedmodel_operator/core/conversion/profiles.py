"""Credential profiles: the variables for one store of `storage-config`."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from trainedmodel_operator.core.conversion.entries import Entry
from trainedmodel_operator.core.conversion.result import Unconvertible, shown
from trainedmodel_operator.core.conversion.storage import connection_settings

_TRUE: Final = frozenset({"1", "true", "yes"})
_FALSE: Final = frozenset({"0", "false", "no"})
#: What an entry says of the store's place in an address, not of who asks.
_PLACES: Final = frozenset({"type", "bucket", "default_bucket", "container", "url", "name", "path"})


@dataclass(frozen=True, slots=True)
class Profile:
    """Variables, and notes about them. Without variables no profile is needed."""

    variables: Mapping[str, str]
    notes: tuple[str, ...] = ()


def entry_profile(entry: Entry) -> Profile:
    """Return the variables of a store.

    Raises:
        Unconvertible: the puller does not read such a store, or cannot get in that way.
    """
    values = {name: _text(value) for name, value in (entry.values or {}).items() if value}
    match entry.kind:
        case "s3":
            found = _s3(values)
        case "gs":
            found = _gs(values)
        case "azure":
            found = _azure(values)
        case "http" | "https":
            found = _http(entry.values or {})
        case "hf":
            found = _some({"HF_TOKEN": values.get("token") or values.get("HF_TOKEN")})
        case "pvc":
            return Profile(
                {},
                (
                    "needs no profile: name the claim on the pods, in the annotation "
                    "trainedmodel.dev/claims",
                ),
            )
        case "hdfs" | "webhdfs":
            raise Unconvertible(
                f"type: {shown(entry.kind)}: the puller does not read HDFS: copy the models to "
                "another store"
            )
        case _:
            raise Unconvertible(
                f"type: {shown(entry.kind)} is no store that the puller reads: one of "
                "s3, gcs, azure, http, hf, pvc"
            )
    if not found.variables and not found.notes:
        return Profile({}, ("needs no profile: it has no credentials",))
    return found


def _s3(values: Mapping[str, str]) -> Profile:
    known = {
        "access_key_id": "AWS_ACCESS_KEY_ID",
        "secret_access_key": "AWS_SECRET_ACCESS_KEY",
        "session_token": "AWS_SESSION_TOKEN",
        "endpoint_url": "AWS_ENDPOINT_URL",
        "region": "AWS_REGION",
    }
    variables = {known[name]: value for name, value in values.items() if name in known}
    if values.get("anonymous", "").lower() in _TRUE:
        variables["AWS_SKIP_SIGNATURE"] = "true"
    if values.get("verify_ssl", "").lower() in _FALSE:
        variables["S3_VERIFY_SSL"] = "0"
    notes = [
        f"{name} is lost: set an authority of your own with AWS_CA_BUNDLE"
        for name in ("certificate", "ca_bundle", "cabundle_configmap")
        if name in values
    ]
    settled = {*known, "anonymous", "verify_ssl", "certificate", "ca_bundle", "cabundle_configmap"}
    return Profile(variables, (*notes, *_lost(values, settled)))


def _gs(values: Mapping[str, str]) -> Profile:
    if encoded := values.get("base64_service_account"):
        try:
            key = json.loads(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError):
            raise Unconvertible("base64_service_account is not a key file in base64") from None
        return Profile({"GOOGLE_APPLICATION_CREDENTIALS": json.dumps(key)})
    own = ("private_key", "client_email", "token_uri", "private_key_id", "project_id", "client_id")
    if not values.get("private_key") and not values.get("client_email"):
        return Profile({}, tuple(_lost(values, set())))
    for name in ("private_key", "client_email"):
        if not values.get(name):
            raise Unconvertible(f"{name} is missing: a key of Google's needs both")
    key = {"type": "service_account", "private_key_id": ""}
    key |= {name: values[name] for name in own if name in values}
    return Profile(
        {"GOOGLE_APPLICATION_CREDENTIALS": json.dumps(key)}, tuple(_lost(values, set(own)))
    )


def _azure(values: Mapping[str, str]) -> Profile:
    settings = connection_settings(values.get("connection_string", ""))
    variables = {
        "AZURE_STORAGE_ACCOUNT_NAME": values.get("account_name") or settings.get("accountname"),
        "AZURE_STORAGE_ACCOUNT_KEY": values.get("access_key") or settings.get("accountkey"),
        "AZURE_STORAGE_SAS_TOKEN": settings.get("sharedaccesssignature"),
        "AZURE_STORAGE_ENDPOINT": settings.get("blobendpoint"),
        "AZURE_CLIENT_ID": values.get("client_id"),
        "AZURE_CLIENT_SECRET": values.get("client_secret"),
        "AZURE_TENANT_ID": values.get("tenant_id"),
    }
    settled = {
        *("account_name", "access_key", "connection_string"),
        *("client_id", "client_secret", "tenant_id"),
    }
    return _some(variables, _lost(values, settled))


def _http(values: Mapping[str, Any]) -> Profile:
    """Return the login of a web server: what its header Authorization says."""
    headers = values.get("headers")
    if isinstance(headers, str):
        pairs = (line.partition(":") for line in headers.splitlines() if ":" in line)
        headers = {name.strip(): text.strip() for name, _, text in pairs}
    headers = headers if isinstance(headers, Mapping) else {}
    for name in ("client_certificate", "client_key"):
        if values.get(name):
            raise Unconvertible(f"{name}: the puller has no client certificates")
    others = [str(name) for name in headers if str(name).lower() != "authorization"]
    if others:
        raise Unconvertible(
            f"headers: {', '.join(others)}: the puller sends no headers but Authorization"
        )
    notes = ["certificate is lost: mount an authority of your own"]
    lost = tuple(notes if values.get("certificate") else ())
    if not headers:
        return Profile({}, lost)
    said = next(iter(headers.values()))
    said = said[0] if isinstance(said, list) and said else said
    origin = _origin(str(values.get("url") or ""))
    scheme, _, rest = str(said).strip().partition(" ")
    if scheme.lower() == "bearer" and rest:
        return Profile({"HTTP_BEARER_TOKEN": rest.strip(), "HTTP_ORIGINS": origin}, lost)
    try:
        user, mark, password = base64.b64decode(rest, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        user = mark = password = ""
    if scheme.lower() != "basic" or not mark:
        raise Unconvertible("headers: Authorization is neither `Bearer ...` nor `Basic ...`")
    login = {"HTTP_USERNAME": user, "HTTP_PASSWORD": password, "HTTP_ORIGINS": origin}
    return Profile(login, lost)


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        host = None
        port = ""
    if not host or parts.scheme not in {"http", "https"}:
        raise Unconvertible(
            "url is missing or not an http address: set the url that gets the headers"
        )
    return f"{parts.scheme}://{host}{port}"


def _some(variables: Mapping[str, str | None], notes: Any = ()) -> Profile:
    return Profile({name: value for name, value in variables.items() if value}, tuple(notes))


def _lost(values: Mapping[str, str], settled: set[str]) -> list[str]:
    return [
        f"{name} is lost: the puller has no such setting"
        for name in values
        if name not in settled and name not in _PLACES
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
