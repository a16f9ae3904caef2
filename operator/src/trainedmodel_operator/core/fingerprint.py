"""Fingerprints: whether anything that a pass over a service would read has changed.

A pass that came to nothing comes to nothing again while its two sides are the same. What tells is
each object's uid and resourceVersion, which lists of metadata give for thousands of objects in a
few requests. A fingerprint only ever saves a pass: none is decided upon, and nothing is written
because of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

Metadata = Mapping[str, Any]


def part_of(metadata: Metadata) -> str:
    """Return what stands for an object that counts with all that it says."""
    return f"{metadata['uid']}/{metadata.get('resourceVersion', '')}"


def content_version(metadata: Metadata) -> str:
    """Return what changes with the content or the owner of a report, and with nothing else.

    A heartbeat changes the resourceVersion alone.
    """
    owners = (owner.get("uid", "") for owner in metadata.get("ownerReferences") or ())
    generation = metadata.get("generation") or metadata["resourceVersion"]
    return "/".join((str(generation), *owners))


def report_part(metadata: Metadata) -> str:
    """Return what stands for a report: its content, and not its heartbeats."""
    return f"{metadata['uid']}/{content_version(metadata)}"


def stale_part(pod_uid: str) -> str:
    """Return what stands for a pod whose report has been silent for too long."""
    return f"{pod_uid}/stale"


def fingerprint(parts: Iterable[str]) -> str:
    """Return the fingerprint of what a pass reads, whatever the order."""
    return hashlib.blake2b("\n".join(sorted(parts)).encode(), digest_size=16).hexdigest()
