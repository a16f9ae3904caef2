"""Copies: what one pod's report proves about one model.

A copy counts as ready only if its own pod's report says that the server answers and serves the
current revision. Every lesser state is shown as it is, with the pod's name and the reason. Nothing
is guessed.

`CHAIN` is the decision, from the top: the first rule that applies to a copy gives its state and
message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from trainedmodel_contract.modelreport import ModelReport, ReportedModel
from trainedmodel_contract.reasons import SENTENCES, STATE_ORDER, Reason, State

from trainedmodel_operator.core.pods import Readiness
from trainedmodel_operator.core.state import PodView

ADVANCE: Final = {state: position for position, state in enumerate(STATE_ORDER)}
FAILED_STATES: Final = frozenset({State.FAILED, State.BLOCKED})
_STATES: Final = {state.value: state for state in State}
#: Under way without the server: told as they are even while the server does not answer.
_WITHOUT_SERVER: Final = frozenset({State.DOWNLOADING, State.VERIFYING}) | FAILED_STATES


@dataclass(frozen=True, slots=True)
class Copy:
    """One pod's copy of one model.

    Attributes:
        ready: The pod's server serves the current revision, and says so.
        available: The pod's server serves the model, in some revision.
        doubtful: The pod's server did so when its puller last spoke, which is too long ago.
        starting: The pod has never been Ready and is not done with the model yet: no traffic
            reaches it, so it says nothing against the others.
        reported: The pod's own words, if it has any about this model.
    """

    pod: str
    state: State
    reason: str
    message: str = ""
    ready: bool = False
    available: bool = False
    doubtful: bool = False
    starting: bool = False
    reported: ReportedModel | None = None


@dataclass(frozen=True, slots=True)
class CopyInput:
    """The facts about one copy before it is judged."""

    pod: PodView
    report: ModelReport | None
    reported: ReportedModel | None
    revision: str | None
    is_stale: bool = False

    @property
    def is_reachable(self) -> bool:
        """Whether the pod's server answered its puller."""
        server = None if self.report is None else self.report.server
        return server is not None and server.reachable

    @property
    def is_available(self) -> bool:
        """Whether the pod's server serves the model in some revision."""
        said = self.reported
        return (
            self.is_reachable
            and said is not None
            and (said.state == State.LOADED or said.loaded_revision is not None)
        )

    def copy(self, state: State, reason: str, message: str, *, ready: bool = False) -> Copy:
        """Make the verdict on this copy."""
        is_available = self.is_available
        return Copy(
            pod=self.pod.name,
            state=state,
            reason=reason,
            message=message,
            ready=ready,
            available=is_available and not self.is_stale,
            doubtful=is_available and self.is_stale,
            starting=not ready and self._is_starting(state),
            reported=self.reported,
        )

    def _is_starting(self, state: State) -> bool:
        """Tell whether the pod has yet to come up; one that reports a failure has come so far."""
        if self.pod.readiness is Readiness.UNTOLD:
            return self.report is None
        return self.pod.readiness is Readiness.NEVER and state not in FAILED_STATES


Rule = Callable[[CopyInput], Copy | None]


def report_is_missing(given: CopyInput) -> Copy | None:
    """No report is owned by this very pod (an old pod of the same name proves nothing)."""
    if given.report is not None:
        return None
    return given.copy(State.WAITING, Reason.REPORT_MISSING, SENTENCES[Reason.REPORT_MISSING])


def report_is_stale(given: CopyInput) -> Copy | None:
    """The report is stale: its content proves nothing now."""
    if not given.is_stale:
        return None
    return given.copy(State.WAITING, Reason.REPORT_STALE, SENTENCES[Reason.REPORT_STALE])


def revision_is_unseen(given: CopyInput) -> Copy | None:
    """The pod speaks of another revision, or not of this model at all."""
    said = given.reported
    if said is not None and given.revision is not None and said.revision == given.revision:
        return None
    if said is not None and said.revision is None and _state(given) in FAILED_STATES:
        return None  # an entry that could not be read has no revision to speak of
    problem = None if given.report is None else given.report.config_problem
    if problem is not None:
        message = problem.message or SENTENCES[Reason.CONFIG_UNREADABLE]
        return given.copy(State.WAITING, Reason.CONFIG_UNREADABLE, message)
    return given.copy(State.WAITING, Reason.CONFIG_NOT_SEEN, SENTENCES[Reason.CONFIG_NOT_SEEN])


def server_is_silent(given: CopyInput) -> Copy | None:
    """The server does not answer, and what the copy waits for needs it."""
    if given.is_reachable or _state(given) in _WITHOUT_SERVER:
        return None
    server = None if given.report is None else given.report.server
    message = (server.message if server is not None else None) or (
        SENTENCES[Reason.SERVER_UNREACHABLE]
    )
    return given.copy(State.WAITING, Reason.SERVER_UNREACHABLE, message)


def server_serves_it(given: CopyInput) -> Copy | None:
    """Loaded, in the current revision."""
    said = given.reported
    if said is None or _state(given) is not State.LOADED:
        return None
    if said.loaded_revision not in {None, given.revision}:
        return None
    return given.copy(State.LOADED, "", "", ready=True)


def pod_says_so(given: CopyInput) -> Copy | None:
    """Whatever else the pod says, in its own words."""
    said = given.reported
    if said is None:
        return None
    state = _state(given)
    if state is None:
        message = f"The pod reports the state {said.state}, which this operator does not know."
        return given.copy(State.WAITING, Reason.INTERNAL_ERROR, message)
    if state is State.LOADED:  # of another revision than it was told to load
        return given.copy(
            State.LOADING, Reason.IN_PROGRESS, f"The server still serves {said.loaded_revision}."
        )
    return given.copy(state, said.reason or Reason.IN_PROGRESS, said.message or "")


CHAIN: Final[Sequence[Rule]] = (
    report_is_missing,
    report_is_stale,
    revision_is_unseen,
    server_is_silent,
    server_serves_it,
    pod_says_so,
)


def judge(given: CopyInput) -> Copy:
    """Judge one copy: the first rule that has something to say."""
    return next(copy for copy in (rule(given) for rule in CHAIN) if copy is not None)


def _state(given: CopyInput) -> State | None:
    return None if given.reported is None else _STATES.get(given.reported.state)
