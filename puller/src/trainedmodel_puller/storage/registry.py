"""Maps URIs to back ends, which are made at first use, kept, and closed at the end.

There is one back end for each scheme family and credential profile. All models of a store share its
connections and tokens, and profiles never share them.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from trainedmodel_contract.names import PROFILE_NAME_PATTERN
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.fsspec_options import PROFILE_SCHEMES
from trainedmodel_puller.storage.backends.fsspec_store import TESTED_SCHEMES, FsspecStorage
from trainedmodel_puller.storage.backends.http import HttpStorage
from trainedmodel_puller.storage.backends.hub import HubStorage
from trainedmodel_puller.storage.backends.local import LocalStorage
from trainedmodel_puller.storage.backends.object_clients import PROVIDERS
from trainedmodel_puller.storage.backends.object_store import ObjectStorage
from trainedmodel_puller.storage.base import Storage
from trainedmodel_puller.storage.outside import OutsideThreads
from trainedmodel_puller.storage.settings import StorageSettings
from trainedmodel_puller.storage.uri_allowlist import UriRule
from trainedmodel_puller.storage.uri_parts import check_parts

#: Before a scheme, so that none can pass for a family.
_FSSPEC: Final = "fsspec+"
_FAMILIES: Final = {
    **dict.fromkeys(PROVIDERS, "object"),
    **dict.fromkeys(("http", "https"), "http"),
    **dict.fromkeys(("file", "pvc"), "local"),
    "hf": "hub",
}


class StorageRegistry:
    """All storage back ends of one puller; an async context manager."""

    def __init__(self, settings: StorageSettings | None = None) -> None:
        """Make no connection yet.

        Raises:
            SettingsError: a prefix of the allowed URIs is none.
        """
        self._settings = settings or StorageSettings()
        self._allowed = UriRule(self._settings.allowed_uris)
        self._threads = OutsideThreads()
        self._open: dict[tuple[str, str | None], Storage] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def for_uri(self, uri: StorageUri, credentials: str | None = None) -> Storage:
        """Return the back end of a URI, with the rights of a credential profile if one is named.

        Raises:
            SourceFault: the URI is not allowed, or has a part that its scheme has no use for; or
                the profile cannot be used with this scheme.
        """
        self._allowed.check(uri)
        family = self._family(uri.scheme)
        check_parts(uri)
        takes_profile = family in {"object", "http", "hub"} or uri.scheme in PROFILE_SCHEMES
        if credentials is not None and not takes_profile:
            raise SourceFault(
                Reason.ACCESS_DENIED,
                f"{uri}: credential profiles serve object stores, http and hf only; "
                "remove model.credentials",
            )
        known = self._open.get((family, credentials))
        if known is None:
            known = self._make(family, credentials)
            self._open[family, credentials] = known
        return known

    async def close(self) -> None:
        """Close all back ends."""
        while self._open:
            _, storage = self._open.popitem()
            await storage.close()

    def _family(self, scheme: str) -> str:
        if scheme in self._settings.fsspec_schemes or scheme in TESTED_SCHEMES:
            return _FSSPEC + scheme
        if scheme not in _FAMILIES:
            # Before anything is made for it: a scheme is a word of a stranger's choosing.
            raise SourceFault(
                Reason.UNSUPPORTED_SCHEME,
                f"scheme {scheme!a:.40} is not supported; copy the model to a place of one of "
                f"these: {', '.join(sorted(_FAMILIES))}",
            )
        return _FAMILIES[scheme]

    def _make(self, family: str, credentials: str | None) -> Storage:
        settings = self._settings
        profile = None if credentials is None else self._profile(credentials)
        if family == "http":
            return HttpStorage(settings, profile, self._allowed)
        if family == "hub":
            return HubStorage(settings, profile)
        if family == "local":
            return LocalStorage(
                settings.file_roots,
                settings.pvc_root,
                threads=self._threads,
                answer_timeout_s=settings.answer_timeout_s,
                max_listing=settings.max_listing,
            )
        if family.startswith(_FSSPEC):
            return FsspecStorage(
                family.removeprefix(_FSSPEC),
                settings.answer_timeout_s,
                profile=profile,
                instance_metadata=bool(settings.instance_metadata),
                threads=self._threads,
                max_listing=settings.max_listing,
            )
        return ObjectStorage(settings, profile)

    def _profile(self, credentials: str) -> Path:
        folder = self._settings.profiles_dir
        # The name becomes a path: an entry that was not written by the operator is not trusted.
        if folder is None or re.fullmatch(PROFILE_NAME_PATTERN, credentials) is None:
            raise SourceFault(
                Reason.ACCESS_DENIED,
                f"credential profile {credentials!a:.80} is not mounted into this pod",
            )
        return folder / credentials
