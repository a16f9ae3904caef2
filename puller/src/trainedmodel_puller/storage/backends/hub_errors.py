"""The refusals of a hub, as reasons and sentences for people. Pure.

A hub hides private repositories: without a token it answers 401 both for a private repository and
for one that does not exist. The details of a refusal are in its headers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.errors import SourceFault, printable

_ADVICE: Final = "set HF_TOKEN in the puller's environment, or name a credential profile"
_ADDRESS: Final = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]*")


def hub_fault(
    what: str, status: int, headers: Mapping[str, str], *, has_token: bool
) -> SourceFault:
    """Turn an answer that is not the wanted one into the fault that users see.

    Args:
        what: What was asked for, shown first.
        status: Of the answer.
        headers: Of the answer if it is the hub's own; its content servers have other words.
        has_token: The request carried a token.
    """
    code = headers.get("X-Error-Code", "")
    said = headers.get("X-Error-Message", "")
    reason, words = _verdict(status, code, said, has_token=has_token)
    return SourceFault(reason, f"{what}: {words}")


def _verdict(status: int, code: str, said: str, *, has_token: bool) -> tuple[Reason, str]:
    """Return reason and sentence of the first rule that holds."""
    denied, missing = Reason.ACCESS_DENIED, Reason.OBJECT_NOT_FOUND
    gated = "the repository is gated: ask for access to it on the hub"
    unknown = "the hub shows no such repository to a request without a token: it does not exist"
    rules = (
        (code == "GatedRepo" and has_token, denied, f"{gated} with the account of the token"),
        (code == "GatedRepo", denied, f"{gated}, and {_ADVICE}"),
        (code == "RevisionNotFound", missing, "the repository has no such revision"),
        (code == "EntryNotFound", missing, "the repository has no such file or folder"),
        ("disabled" in said.lower(), denied, "the hub has disabled this repository"),
        (status == 401 and has_token, denied, "the hub does not accept the token; renew HF_TOKEN"),
        (status == 401, denied, f"{unknown}, or it is private; {_ADVICE}"),
        (status == 403, denied, "the hub refused access" + _quoted(said)),
        (
            code == "RepoNotFound" and has_token,
            missing,
            "no such repository, or the token may not read it",
        ),
        (
            code == "RepoNotFound",
            missing,
            f"no such repository that everybody may read; for a private one {_ADVICE}",
        ),
        (status in {404, 410}, missing, "the hub answered that it does not exist"),
        (status == 429, Reason.SOURCE_ERROR, "the hub answered 429: too many requests"),
    )
    for holds, reason, words in rules:
        if holds:
            return reason, words
    reason = Reason.SIZE_MISMATCH if status == 416 else Reason.SOURCE_ERROR
    return reason, f"the hub answered {status}" + _quoted(said)


def _quoted(said: str) -> str:
    """Return the hub's own words, without addresses, which may be signed, and short."""
    shown = _ADDRESS.sub("(address)", said)
    plain = printable(shown).strip()[:200]
    return f" ({plain})" if plain else ""
