"""The Lease as an object of the API: read it, create it, change it under the version read.

Every change carries the `resourceVersion` that it was decided on. So if two replicas saw the same
Lease, one of them is refused. A change is a merge patch of the operator's fields only. Labels and
annotations of others stay.

Requests are sent at once (`Transport.request_once`). A renewal has only seconds, so it does not
queue behind statuses and does not pause when they are throttled. The requests have a connection of
their own for the same reason, and because the fence does not apply to them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol

from trainedmodel_contract import names

from trainedmodel_operator.api.transport import Transport
from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.lease import Record
from trainedmodel_operator.errors import NotFound

_MERGE_PATCH: Final = "application/merge-patch+json"
_GROUP: Final = "coordination.k8s.io/v1"


class Found(NamedTuple):
    """A Lease as it was read; `record` None: there is none."""

    record: Record | None
    version: str


class LeaseStore(Protocol):
    """The storage of the Lease."""

    async def read(self, *, exact: bool) -> Found:
        """Read the Lease; not `exact`: may be late by as much as an API server is."""
        ...

    async def create(self, record: Record) -> str:
        """Create the Lease and return its version.

        Raises:
            Conflict: another writer was faster.
            NotFound: its namespace is not there.
        """
        ...

    async def change(self, version: str, record: Record) -> str:
        """Change the Lease that has this version, and return its next one.

        Raises:
            Conflict: it has another version by now.
            NotFound: it is gone.
        """
        ...


class ApiLease:
    """A Lease on an API server."""

    def __init__(
        self, transport: Transport, namespace: str, name: str, timeout_s: float = 3.0
    ) -> None:
        self._transport = transport
        self._folder = f"/apis/{_GROUP}/namespaces/{namespace}/leases"
        self._name = name
        self._timeout_s = timeout_s

    async def read(self, *, exact: bool) -> Found:
        """Read the Lease; not `exact`: from the API server's memory, which costs etcd nothing.

        What is read from there may be old. Then the change that is decided on it is refused.
        """
        query = {} if exact else {"resourceVersion": "0"}
        try:
            lease = await self._transport.request_once(
                "GET", self._path, query=query, timeout_s=self._timeout_s
            )
        except NotFound:
            return Found(None, "")
        return Found(_read_spec(lease.get("spec") or {}), _version(lease))

    async def create(self, record: Record) -> str:
        """Create the Lease."""
        body = {
            "apiVersion": _GROUP,
            "kind": "Lease",
            "metadata": {
                "name": self._name,
                "labels": {names.MANAGED_BY_LABEL: names.MANAGED_BY},
            },
            "spec": _spec(record),
        }
        return _version(await self._write("POST", self._folder, body, "application/json"))

    async def change(self, version: str, record: Record) -> str:
        """Change the Lease, if it still has this version."""
        body = {"metadata": {"resourceVersion": version}, "spec": _spec(record)}
        return _version(await self._write("PATCH", self._path, body, _MERGE_PATCH))

    @property
    def _path(self) -> str:
        return f"{self._folder}/{self._name}"

    async def _write(self, method: str, path: str, body: Document, content_type: str) -> Document:
        return await self._transport.request_once(
            method,
            path,
            query={"fieldManager": names.MANAGED_BY},
            body=body,
            content_type=content_type,
            timeout_s=self._timeout_s,
        )


def now_as_text() -> str:
    """Return the time in the format of a Lease; for people, never compared."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _version(lease: Document) -> str:
    return str(lease["metadata"]["resourceVersion"])


def _spec(record: Record) -> Document:
    """Return the fields of a record; null removes one, as the API wants of an empty holder."""
    return {
        "holderIdentity": record.holder or None,
        "leaseDurationSeconds": record.duration_s,
        "acquireTime": record.acquired or None,
        "renewTime": record.renewed or None,
        "leaseTransitions": record.transitions,
    }


def _read_spec(spec: Document) -> Record:
    return Record(
        holder=spec.get("holderIdentity") or "",
        duration_s=spec.get("leaseDurationSeconds") or 0,
        acquired=spec.get("acquireTime") or "",
        renewed=spec.get("renewTime") or "",
        transitions=spec.get("leaseTransitions") or 0,
    )
