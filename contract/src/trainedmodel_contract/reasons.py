"""States and reasons: one enumeration each, with a sentence for people.

A state says where a copy of a model is on its way; a reason says why it is there and not further.
Both appear verbatim in `kubectl get`, conditions, reports, metrics and logs, so that one word can
be searched everywhere. `docs/reasons.md` is checked against this module by a test.
"""

from __future__ import annotations

import textwrap
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where one copy of a model is; for a TrainedModel, where its least advanced copy is."""

    PENDING = "Pending"
    WAITING = "Waiting"
    DOWNLOADING = "Downloading"
    VERIFYING = "Verifying"
    LOADING = "Loading"
    LOADED = "Loaded"
    UNLOADING = "Unloading"
    FAILED = "Failed"
    BLOCKED = "Blocked"


#: From least to most advanced: the state of a TrainedModel is the first of its copies' here.
STATE_ORDER: Final = (
    State.FAILED,
    State.BLOCKED,
    State.PENDING,
    State.WAITING,
    State.DOWNLOADING,
    State.VERIFYING,
    State.LOADING,
    State.UNLOADING,
    State.LOADED,
)


class Reason(StrEnum):
    """Why a copy (or a TrainedModel) is in its state."""

    # the entry itself
    INVALID_SPEC = "InvalidSpec"
    INVALID_ENTRY = "InvalidEntry"
    INVALID_NAME = "InvalidName"
    INVALID_URI = "InvalidUri"
    UNSUPPORTED_SCHEME = "UnsupportedScheme"
    NAME_CONFLICT = "NameConflict"
    SHARDS_FULL = "ShardsFull"
    SHARD_NOT_OURS = "ShardNotOurs"
    SHARD_REFUSED = "ShardRefused"
    # the source
    SOURCE_UNREACHABLE = "SourceUnreachable"
    OBJECT_NOT_FOUND = "ObjectNotFound"
    ACCESS_DENIED = "AccessDenied"
    SOURCE_STALLED = "SourceStalled"
    SOURCE_CHANGED = "SourceChanged"
    SOURCE_ERROR = "SourceError"
    SIZE_MISMATCH = "SizeMismatch"
    DIGEST_MISMATCH = "DigestMismatch"
    LISTING_TOO_LARGE = "ListingTooLarge"
    UNSAFE_PATH = "UnsafePath"
    UNSAFE_ARCHIVE = "UnsafeArchive"
    URI_NOT_ALLOWED = "UriNotAllowed"
    # the volume
    INSUFFICIENT_DISK = "InsufficientDisk"
    VOLUME_ERROR = "VolumeError"
    VOLUME_IN_USE = "VolumeInUse"
    FOLDER_NOT_OURS = "FolderNotOurs"
    # the server
    INSUFFICIENT_MEMORY = "InsufficientMemory"
    SERVER_UNREACHABLE = "ServerUnreachable"
    SERVER_FULL = "ServerFull"
    INVALID_LAYOUT = "InvalidLayout"
    LOAD_FAILED = "LoadFailed"
    LOAD_TIMEOUT = "LoadTimeout"
    UNLOAD_FAILED = "UnloadFailed"
    # waiting its turn
    QUEUED = "Queued"
    IN_PROGRESS = "InProgress"
    # the way between operator and pod
    ACCEPTED = "Placed"
    ALL_COPIES_READY = "AllCopiesReady"
    COPIES_AVAILABLE = "CopiesAvailable"
    NO_COPY_AVAILABLE = "NoCopyAvailable"
    NO_PODS = "NoPods"
    PODS_STARTING = "PodsStarting"
    REPORT_MISSING = "ReportMissing"
    REPORT_STALE = "ReportStale"
    CONFIG_NOT_SEEN = "ConfigNotSeen"
    CONFIG_UNREADABLE = "ConfigUnreadable"
    INTERNAL_ERROR = "InternalError"


#: What each reason means and what a person does about it.
SENTENCES: Final[dict[Reason, str]] = {
    Reason.INVALID_SPEC: "The TrainedModel breaks a rule of its schema; the message names the field.",
    Reason.INVALID_ENTRY: "The mounted entry is not valid JSON or lacks a field; the last good one stays in force.",
    Reason.INVALID_NAME: "The served name is not of the form [A-Za-z0-9_.-]; set spec.model.name.",
    Reason.INVALID_URI: "The storage URI cannot be used as it is; the message names the part.",
    Reason.UNSUPPORTED_SCHEME: "No storage back end of this puller speaks the URI's scheme.",
    Reason.NAME_CONFLICT: "Another model of the same service already has this served name; rename one of them.",
    Reason.SHARDS_FULL: "All four ConfigMaps of the service are full, or the entry is larger than one; remove models, shorten parameters, or use another service.",
    Reason.SHARD_NOT_OURS: "A ConfigMap with a shard's name exists without our label and is left alone; rename it.",
    Reason.SHARD_REFUSED: "The API server refuses the ConfigMap for the model's entry; the message has its words. Raise the quota, change the policy, or delete a ConfigMap that is immutable; it is tried again at least once a minute.",
    Reason.SOURCE_UNREACHABLE: "The store did not answer; it is tried again.",
    Reason.OBJECT_NOT_FOUND: "The store has no object or folder at this URI; upload it or correct the URI.",
    Reason.ACCESS_DENIED: "The store refused the credentials; check the profile or the pod's identity.",
    Reason.SOURCE_STALLED: "The store stopped sending; the transfer is tried again.",
    Reason.SOURCE_CHANGED: "The object changed while it was read; it is read again.",
    Reason.SOURCE_ERROR: "The store answered with an error; the message has its words.",
    Reason.SIZE_MISMATCH: "The store sent more or less than it listed; nothing of it is served.",
    Reason.DIGEST_MISMATCH: "The content does not have spec.model.digest; nothing of it is served.",
    Reason.LISTING_TOO_LARGE: "The source has more objects than one model may have; let the URI name the model's own folder, or raise the puller's --max-listing.",
    Reason.UNSAFE_PATH: "The source holds a path that would leave the model's folder; nothing of it is served.",
    Reason.UNSAFE_ARCHIVE: "The archive is broken, holds what may leave its folder, or unpacks to more than the limits allow; the message names the entry.",
    Reason.URI_NOT_ALLOWED: "The puller's --allow-uri list has no prefix of this URI; add one or move the model.",
    Reason.INSUFFICIENT_DISK: "The model volume has too little room; it is tried again when room appears.",
    Reason.VOLUME_ERROR: "The model volume could not be read or written; the message has the system's words.",
    Reason.VOLUME_IN_USE: "Another puller uses the model volume; this one waits until that one ends. Give each puller a volume of its own.",
    Reason.FOLDER_NOT_OURS: "A folder with the served name exists that the puller did not make; remove or rename it.",
    Reason.INSUFFICIENT_MEMORY: "The models' declared memory would exceed the server container's memory limit, or the puller's --memory-budget; remove a model, declare less, or raise the limit.",
    Reason.SERVER_UNREACHABLE: "The model server does not answer; nothing is loaded or unloaded until it does.",
    Reason.SERVER_FULL: "The model server has as many models as it takes, and another one would push one out; raise its own limit or remove a model.",
    Reason.INVALID_LAYOUT: "The files do not have the layout that this server loads; the message says what is wanted and what was found. It is not fetched again until the source or the entry changes.",
    Reason.LOAD_FAILED: "The model server refused the model; the message has its words.",
    Reason.LOAD_TIMEOUT: "The model server has not finished the load in time; its state is watched, not hammered.",
    Reason.UNLOAD_FAILED: "The model server did not unload the model; its files stay until it does.",
    Reason.QUEUED: "Waits its turn: a limit on downloads or loads at once is reached.",
    Reason.IN_PROGRESS: "Under way.",
    Reason.ACCEPTED: "The model is valid and its entry is in a shard.",
    Reason.ALL_COPIES_READY: "Every pod's server serves the current revision.",
    Reason.COPIES_AVAILABLE: "At least one pod's server serves the model, in some revision.",
    Reason.NO_COPY_AVAILABLE: "No pod's server serves the model in any revision.",
    Reason.NO_PODS: "The service has no running pod with a puller; check spec.inferenceService and the pods' labels.",
    Reason.PODS_STARTING: "Every pod that has ever been ready serves the current revision; the others are still starting.",
    Reason.REPORT_STALE: "A pod's puller has written nothing for three heartbeats, at least three minutes: what it said may no longer be so; look at the pod, its node, and its way to the API server.",
    Reason.REPORT_MISSING: "A pod has no report yet; its puller is starting, or may not write reports.",
    Reason.CONFIG_NOT_SEEN: "A pod's puller has not seen this revision yet.",
    Reason.CONFIG_UNREADABLE: "A pod's mounted shard is incomplete; its last good state stays in force.",
    Reason.INTERNAL_ERROR: "A fault in the puller or operator itself; the log has the trace. Please report it.",
}

STATE_SENTENCES: Final[dict[State, str]] = {
    State.PENDING: "Accepted, but the service has no running pod to serve it.",
    State.WAITING: "Wanted, and waiting: for its turn, for the server, or for a pod to see it.",
    State.DOWNLOADING: "Being fetched; the reason column shows how much of it.",
    State.VERIFYING: "Fetched; its size and digest are being checked.",
    State.LOADING: "Published, and the server is loading it.",
    State.LOADED: "The server serves this revision.",
    State.UNLOADING: "No longer wanted; the server is letting go of it.",
    State.FAILED: "The last try failed; the next one is scheduled. An older revision may be served meanwhile.",
    State.BLOCKED: "Cannot go on until something else changes; the message says what.",
}


def render_page() -> str:
    """Render `docs/reasons.md`."""
    lines = [
        "<!-- Generated by `make generate` from trainedmodel_contract.reasons. -->",
        "# States and reasons",
        "",
        "Every word that `kubectl get tmodel`, conditions, reports, metrics and logs use.",
        "",
        "## States",
        "",
        *(_row(state, STATE_SENTENCES[state]) for state in State),
        "",
        "## Reasons, and what to do",
        "",
        *(_row(reason, SENTENCES[reason]) for reason in Reason),
        "",
    ]
    return "\n".join(lines)


def _row(word: str, sentence: str) -> str:
    text = f"- `{word}`: {sentence}"
    return textwrap.fill(
        text, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
