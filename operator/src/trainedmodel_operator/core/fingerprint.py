"""Fingerprints: show whether any input of a pass over a service has changed.

A pass that did nothing will do nothing again while its two sides are the same. The uid and
resourceVersion of each object show that, and lists of metadata return them for thousands of objects
in a few requests. A fingerprint only saves a pass. No decision and no write depends on one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

Metadata = Mapping[str, Any]


def part_of(metadata: Metadata) -> str:
    """Return the part of an object of which every change counts."""
    return f"{metadata['uid']}/{metadata.get('resourceVersion', '')}"


def content_version(metadata: Metadata) -> str:
    """Return a version that changes only with the content or the owner of a report.

    A heartbeat changes the resourceVersion alone.
    """
    owners = (owner.get("uid", "") for owner in metadata.get("ownerReferences") or ())
    generation = metadata.get("generation") or metadata["resourceVersion"]
    return "/".join((str(generation), *owners))


def report_part(metadata: Metadata) -> str:
    """Return the part of a report: its content, without its heartbeats."""
    return f"{metadata['uid']}/{content_version(metadata)}"


def stale_part(pod_uid: str) -> str:
    """Return the part of a pod whose report is stale."""
    return f"{pod_uid}/stale"


def fingerprint(parts: Iterable[str]) -> str:
    """Return the fingerprint of the input of a pass, in any order of its parts."""
    return hashlib.blake2b("\n".join(sorted(parts)).encode(), digest_size=16).hexdigest()
