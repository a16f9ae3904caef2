"""States and reasons: one enumeration each, with a sentence for people.

A state is a copy's step towards being served; a reason explains why it is not further. Both appear
verbatim in `kubectl get`, conditions, reports, metrics and logs, so one search finds a word
everywhere. `docs/reasons.md` is generated from this module, and a test checks that it is current.
"""

from __future__ import annotations

import textwrap
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """The state of one copy; of a TrainedModel, the state of its least advanced copy."""

    PENDING = "Pending"
    WAITING = "Waiting"
    DOWNLOADING = "Downloading"
    VERIFYING = "Verifying"
    LOADING = "Loading"
    LOADED = "Loaded"
    UNLOADING = "Unloading"
    FAILED = "Failed"
    BLOCKED = "Blocked"


#: From least to most advanced. A TrainedModel has the first of its copies' states in this order.
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
    # waiting for a slot
    QUEUED = "Queued"
    IN_PROGRESS = "InProgress"
    # between operator and pod
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


#: The meaning of each reason, and the remedy.
SENTENCES: Final[dict[Reason, str]] = {
    Reason.INVALID_SPEC: "The TrainedModel breaks a rule of its schema; the message names the field.",
    Reason.INVALID_ENTRY: "The mounted entry is not valid JSON or lacks a field; the last good entry stays in force.",
    Reason.INVALID_NAME: "The served name does not match [A-Za-z0-9_.-]; set spec.model.name.",
    Reason.INVALID_URI: "The storage URI is not valid; the message names the part to correct.",
    Reason.UNSUPPORTED_SCHEME: "This puller has no storage back end for the URI's scheme; use one of the supported schemes.",
    Reason.NAME_CONFLICT: "Another model of the same service already has this served name; rename one of them.",
    Reason.SHARDS_FULL: "All four ConfigMaps of the service are full, or the entry is larger than one; remove models, shorten parameters, or use another service.",
    Reason.SHARD_NOT_OURS: "A ConfigMap with the name of a shard exists without the operator's label. The operator does not change it; rename it.",
    Reason.SHARD_REFUSED: "The API server refused the ConfigMap of the model's entry; the message has its answer. Raise the quota, change the policy, or delete an immutable ConfigMap; the operator retries at least once a minute.",
    Reason.SOURCE_UNREACHABLE: "The store did not answer; the puller retries.",
    Reason.OBJECT_NOT_FOUND: "The store has no object or folder at this URI; upload it or correct the URI.",
    Reason.ACCESS_DENIED: "The store refused the credentials; check the profile or the pod's identity.",
    Reason.SOURCE_STALLED: "The store stopped sending; the puller retries the transfer.",
    Reason.SOURCE_CHANGED: "The object changed while it was read; the puller reads it again.",
    Reason.SOURCE_ERROR: "The store returned an error; the message has its answer.",
    Reason.SIZE_MISMATCH: "The store sent more or fewer bytes than it listed; the download is not served.",
    Reason.DIGEST_MISMATCH: "The content does not match spec.model.digest; the download is not served.",
    Reason.LISTING_TOO_LARGE: "The source has more objects than one model may have; point the URI at the model's own folder, or raise the puller's --max-listing.",
    Reason.UNSAFE_PATH: "The source has a path that leads out of the model's folder; the download is not served.",
    Reason.UNSAFE_ARCHIVE: "The archive is damaged, has an entry that may leave its folder, or unpacks to more than the limits allow; the message names the entry.",
    Reason.URI_NOT_ALLOWED: "No prefix in the puller's --allow-uri list matches this URI; add a prefix or move the model.",
    Reason.INSUFFICIENT_DISK: "The model volume has too little free space; the puller retries when space is freed.",
    Reason.VOLUME_ERROR: "The model volume could not be read or written; the message has the system's error.",
    Reason.VOLUME_IN_USE: "Another puller uses the model volume, and this one waits until it ends. Give each puller a volume of its own.",
    Reason.FOLDER_NOT_OURS: "A folder with the served name exists that the puller did not make; remove or rename it.",
    Reason.INSUFFICIENT_MEMORY: "The models' declared memory would exceed the server container's memory limit, or the puller's --memory-budget; remove a model, declare less, or raise the limit.",
    Reason.SERVER_UNREACHABLE: "The model server does not answer; the puller loads and unloads nothing until it does.",
    Reason.SERVER_FULL: "The model server has reached its limit of models, and another model would evict one; raise the server's limit or remove a model.",
    Reason.INVALID_LAYOUT: "The files do not have the layout that this server loads; the message has the expected and the found layout. The puller fetches again when the source or the entry changes.",
    Reason.LOAD_FAILED: "The model server refused the model; the message has its answer.",
    Reason.LOAD_TIMEOUT: "The model server did not finish the load in time; the puller watches its state and does not repeat the request meanwhile.",
    Reason.UNLOAD_FAILED: "The model server did not unload the model; the files stay until it does.",
    Reason.QUEUED: "Waiting for a slot: the limit of concurrent downloads or loads is reached.",
    Reason.IN_PROGRESS: "In progress.",
    Reason.ACCEPTED: "The model is valid and its entry is in a shard.",
    Reason.ALL_COPIES_READY: "Every pod's server serves the current revision.",
    Reason.COPIES_AVAILABLE: "At least one pod's server serves a revision of the model.",
    Reason.NO_COPY_AVAILABLE: "No pod's server serves any revision of the model.",
    Reason.NO_PODS: "The service has no running pod with a puller; check spec.inferenceService and the pods' labels.",
    Reason.PODS_STARTING: "Every pod that was ever ready serves the current revision; the other pods are starting.",
    Reason.REPORT_STALE: "A pod's puller has written nothing for three heartbeats, at least three minutes, so its report may be outdated; check the pod, its node, and its connection to the API server.",
    Reason.REPORT_MISSING: "A pod has no report yet; its puller is starting, or lacks the right to write reports.",
    Reason.CONFIG_NOT_SEEN: "A pod's puller has not seen this revision yet.",
    Reason.CONFIG_UNREADABLE: "A pod's mounted shard is incomplete; the last good configuration stays in force.",
    Reason.INTERNAL_ERROR: "An internal error of the puller or operator; the log has the traceback. Please report it.",
}

STATE_SENTENCES: Final[dict[State, str]] = {
    State.PENDING: "Accepted, but the service has no running pod to serve it.",
    State.WAITING: "Requested, and waiting for a slot, for the server, or for a pod to see it.",
    State.DOWNLOADING: "The puller is downloading the model; the reason shows the progress.",
    State.VERIFYING: "Downloaded; the puller is checking size and digest.",
    State.LOADING: "Published; the server is loading the model.",
    State.LOADED: "The server serves this revision.",
    State.UNLOADING: "No longer requested; the server is unloading the model.",
    State.FAILED: "The last attempt failed, and the next one is scheduled. An older revision may be served meanwhile.",
    State.BLOCKED: "Blocked until something else changes; the message says what must change.",
}


def render_page() -> str:
    """Render `docs/reasons.md`."""
    lines = [
        "<!-- Generated by `make generate` from trainedmodel_contract.reasons. -->",
        "# States and reasons",
        "",
        "The words that `kubectl get tmodel`, conditions, reports, metrics and logs use.",
        "",
        "## States",
        "",
        *(_row(state, STATE_SENTENCES[state]) for state in State),
        "",
        "## Reasons and remedies",
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
