"""Secrets of KServe and ModelMesh as credential profiles: a Secret each, a variable for each key.

    Secret storage-config             a profile for each of its keys
    a Secret of a service account     one profile, by KServe's annotations and keys

Values are copied, and never shown in a message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from trainedmodel_contract import names

from trainedmodel_operator.core.conversion.entries import (
    Entry,
    entry_values,
    is_storage_config,
    secret_keys,
    secret_text,
)
from trainedmodel_operator.core.conversion.metadata import kept_metadata
from trainedmodel_operator.core.conversion.profiles import Profile, entry_profile
from trainedmodel_operator.core.conversion.result import (
    Conversion,
    Unconvertible,
    annotate_with,
    annotation,
    part,
    slug,
)
from trainedmodel_operator.core.document import Document

#: Annotations of KServe's on a Secret for S3, and the variable that each becomes.
_S3_ANNOTATIONS: Final = {
    "s3-endpoint": "S3_ENDPOINT",
    "s3-usehttps": "S3_USE_HTTPS",
    "s3-verifyssl": "S3_VERIFY_SSL",
    "s3-region": "AWS_REGION",
    "s3-usevirtualbucket": "S3_USE_VIRTUAL_BUCKET",
    "s3-useanoncredential": "awsAnonymousCredential",
}
#: Annotations that say something which no variable of a profile says.
_S3_LOST: Final = ("s3-useaccelerate", "s3-cabundle", "s3-cabundle-configmap")
#: Keys of a Secret as KServe names them, and the variable that each becomes.
_KEYS: Final = {
    "AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID",
    "awsAccessKeyID": "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY",
    "awsSecretAccessKey": "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN": "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL": "AWS_ENDPOINT_URL",
    "AWS_REGION": "AWS_REGION",
    "AWS_DEFAULT_REGION": "AWS_REGION",
    "S3_ENDPOINT": "S3_ENDPOINT",
    "S3_USE_HTTPS": "S3_USE_HTTPS",
    "S3_VERIFY_SSL": "S3_VERIFY_SSL",
    "gcloud-application-credentials.json": "GOOGLE_APPLICATION_CREDENTIALS",
    "AZ_CLIENT_ID": "AZURE_CLIENT_ID",
    "AZ_CLIENT_SECRET": "AZURE_CLIENT_SECRET",
    "AZ_TENANT_ID": "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID": "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET": "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID": "AZURE_TENANT_ID",
    "AZURE_STORAGE_ACCESS_KEY": "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCOUNT_NAME": "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_ACCOUNT_NAME": "AZURE_STORAGE_ACCOUNT_NAME",
    "HF_TOKEN": "HF_TOKEN",
}
#: Keys that mean nothing to a puller, and lose nothing when they stay behind.
_NEEDLESS: Final = frozenset({"AZ_SUBSCRIPTION_ID", "AZURE_SUBSCRIPTION_ID"})
_HTTPS_HOST: Final = "https-host"
_HDFS: Final = "HDFS_NAMENODE"


def is_store_secret(document: Document) -> bool:
    """Tell whether a document is a Secret that KServe or ModelMesh reads stores' credentials of."""
    if document.get("kind") != "Secret":
        return False
    return (
        is_storage_config(document)
        or any(annotation(document, name).value for name in (*_S3_ANNOTATIONS, *_S3_LOST))
        or any(key in _KEYS or key in {_HTTPS_HOST, _HDFS} for key in secret_keys(document))
    )


def from_secret(document: Document) -> Conversion:
    """Make credential profiles of a Secret.

    Raises:
        Unconvertible: nothing of it can be one.
    """
    if is_storage_config(document):
        return _from_storage_config(document)
    found = _from_keys(document)
    name = str(part(document, "metadata").get("name") or "")
    made, notes = _secret(document, name, f"{name}-profile", found.variables)
    return Conversion((made,), (*notes, *found.notes))


def _from_storage_config(document: Document) -> Conversion:
    objects: list[Document] = []
    notes: list[str] = []
    faults: list[str] = []
    by_profile: dict[str, str] = {}
    for key in secret_keys(document):
        try:
            found = entry_profile(Entry(key, entry_values(document, key)))
            if found.variables:
                first = by_profile.setdefault(slug(key), key)
                if first != key:
                    raise Unconvertible(
                        f"becomes the same credential profile {slug(key)!r} as the key {first!r}: "
                        "rename one of them, here and in the models that name it"
                    )
                name = str(part(document, "metadata").get("name"))
                made, more = _secret(document, key, f"{name}-{slug(key)}", found.variables)
                objects.append(made)
                notes += [f"{key}: {note}" for note in more]
            notes += [f"{key}: {note}" for note in found.notes]
        except Unconvertible as error:
            faults.append(f"{key}: {error}")
    if not (objects or notes or faults):
        raise Unconvertible("data is empty: there is nothing to convert")
    return Conversion(tuple(objects), tuple(notes), tuple(faults))


def _from_keys(document: Document) -> Profile:
    keys = secret_keys(document)
    if _HDFS in keys:
        raise Unconvertible(f"{_HDFS}: the puller does not read HDFS: copy the models elsewhere")
    if _HTTPS_HOST in keys:
        host = secret_text(document, _HTTPS_HOST)[1].strip()
        lines = secret_text(document, "headers")[1] if "headers" in keys else ""
        values = {"type": "http", "url": f"https://{host}", "headers": _headers(lines)}
        return entry_profile(Entry(_HTTPS_HOST, values))
    variables = {}
    for name, variable in _S3_ANNOTATIONS.items():
        if value := annotation(document, name).text():
            variables[variable] = value
    notes = [
        f"{found.path} is lost: set an authority of your own with AWS_CA_BUNDLE"
        if "cabundle" in name
        else f"{found.path} is lost: there is no such setting"
        for name in _S3_LOST
        if (found := annotation(document, name)).value
    ]
    for key in keys:
        if key in _KEYS:
            variables[_KEYS[key]] = secret_text(document, key)[1]
        elif key not in _NEEDLESS:
            notes.append(f"{key} is lost: the puller has no such variable")
    if not variables:
        raise Unconvertible("has no key that the puller knows: write a new credential profile")
    return Profile(variables, tuple(notes))


def _headers(text: str) -> dict[str, str]:
    """Read KServe's headers of a Secret: a line each."""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _secret(
    document: Document, key: str, name: str, variables: Mapping[str, str]
) -> tuple[Document, Iterator[str]]:
    metadata, _ = kept_metadata(document)
    metadata.pop("annotations", None)
    profile = slug(key)
    made: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {**metadata, "name": name},
        "type": "Opaque",
        "stringData": dict(variables),
    }
    return made, _how_to_use(profile, name)


def _how_to_use(profile: str, secret: str) -> Iterator[str]:
    yield (
        f"becomes the credential profile {profile!r} in the Secret {secret!r}: give the pods "
        f"{annotate_with(profile, secret)}, and name it in spec.model.credentials of the models; "
        f"or, for all models of the pods, the annotation {names.ENVIRONMENT_ANNOTATION}: "
        f"secret/{secret}"
    )
