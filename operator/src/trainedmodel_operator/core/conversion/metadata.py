"""Names, labels and annotations of the results: the user's own, without those of other tools.

Deployment tools find their objects by labels and annotations. A copy that carried them would be
pruned, or overwritten, by a tool that does not know it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from trainedmodel_operator.core.conversion.result import KSERVE_GROUPS, Unconvertible, part, shown
from trainedmodel_operator.core.document import Document

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_QUALIFIED: Final = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

#: What belongs to the object itself, not to a tool: dropped without a word.
_SILENT: Final = frozenset(
    {"kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision"}
)
#: Domains whose labels and annotations say which tool owns an object. A subdomain counts as well.
_TRACKING_DOMAINS: Final = (
    "argocd.argoproj.io",
    "fluxcd.io",
    "meta.helm.sh",
    "helm.sh",
    "kapp.k14s.io",
    "fleet.cattle.io",
    "objectset.rio.cattle.io",
    "config.k8s.io",
    "config.kubernetes.io",
    "cli-utils.sigs.k8s.io",
    "applyset.kubernetes.io",
    "kpt.dev",
    "configmanagement.gke.io",
    "olm.operatorframework.io",
)
_TRACKING_NAMES: Final = frozenset({"app.kubernetes.io/instance", "app.kubernetes.io/managed-by"})
_OURS_TO_DROP: Final = (*KSERVE_GROUPS, "internal.serving.kserve.io")


def kept_metadata(document: Document) -> tuple[dict[str, Any], list[str]]:
    """Return name, namespace, labels and annotations of what is made, and notes.

    Raises:
        Unconvertible: the API server would refuse one of them.
    """
    metadata = part(document, "metadata")
    kept: dict[str, Any] = {"name": _checked(metadata, "name", _NAME, 253)}
    if metadata.get("namespace") is not None:
        kept["namespace"] = _checked(metadata, "namespace", _NAMESPACE, 63)
    notes = []
    dropped: list[str] = []
    for key in ("labels", "annotations"):
        values = _strings(metadata, key)
        dropped += [name for name in values if is_tracking(name)]
        own = {name: text for name, text in values.items() if is_kept(name)}
        if own:
            kept[key] = own
    if dropped:
        notes.append(
            f"{', '.join(sorted(set(dropped)))}: not copied, because a deployment tool tracks its "
            "objects by it"
        )
    return kept, notes


def is_tracking(name: str) -> bool:
    """Tell whether a label or annotation says which deployment tool owns the object."""
    return name in _TRACKING_NAMES or _is_below(name, _TRACKING_DOMAINS)


def is_kept(name: str) -> bool:
    """Tell whether a label or annotation is the user's own."""
    return not (name in _SILENT or is_tracking(name) or _is_below(name, _OURS_TO_DROP))


def _is_below(name: str, domains: tuple[str, ...]) -> bool:
    domain = name.partition("/")[0] if "/" in name else ""
    return any(domain == one or domain.endswith(f".{one}") for one in domains)


def _checked(metadata: Document, key: str, form: re.Pattern[str], most: int) -> str:
    value = metadata.get(key)
    if value in (None, ""):
        raise Unconvertible(f"metadata.{key} is missing: set it")
    if not isinstance(value, str) or len(value) > most or form.fullmatch(value) is None:
        raise Unconvertible(
            f"metadata.{key}: {shown(value)} is not an object name: use lower-case "
            f"letters, digits and '-', at most {most} characters"
        )
    return value


def _strings(metadata: Document, key: str) -> dict[str, str]:
    values = metadata.get(key)
    if values in (None, {}):
        return {}
    if not isinstance(values, Mapping):
        raise Unconvertible(f"metadata.{key} must be a mapping, not {shown(values)}")
    for name, text in values.items():
        if not isinstance(name, str) or _QUALIFIED.fullmatch(name) is None:
            raise Unconvertible(f"metadata.{key}: {shown(name)} cannot be a key: rename it")
        if not isinstance(text, str):
            raise Unconvertible(
                f"metadata.{key}[{name}]: {shown(text)} is not text: put it in quotes"
            )
        if key == "labels" and _LABEL_VALUE.fullmatch(text) is None:
            raise Unconvertible(
                f"metadata.labels[{name}]: {shown(text)} is not a label value: use at most 63 "
                "letters, digits, '-', '_' and '.'"
            )
    return dict(values)
