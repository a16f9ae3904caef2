"""Pod views: a service's pods and their reports, prepared once for many models.

A hundred pods with five thousand models are half a million copies to judge. Nearly all are in one
of two states: the pod has not reported the model, or the model is settled (the desired revision is
loaded, and nothing else is reported). How `judge` decides on either depends on the pod alone. So
`judge` runs for both once for each pod, and its verdict serves for all models. Every other copy is
judged by itself. All verdicts are those of `judge`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

from trainedmodel_contract.modelreport import ModelReport, ReportedModel
from trainedmodel_contract.reasons import State

from trainedmodel_operator.core.state import PodView
from trainedmodel_operator.core.status.copies import ADVANCE, Copy, CopyInput, judge

_LOADED: Final = State.LOADED.value
_SETTLED: Final = ReportedModel(state=_LOADED, revision="any")


class Witness:
    """One pod and its report.

    Attributes:
        says: The content of its report, by model.
        unsaid: Its copy of a model that the report does not name.
        settled: Its copy of a settled model, without the pod's words, which are no news; None while
            something speaks against all copies of the pod.
    """

    __slots__ = ("_is_stale", "_pod", "_report", "says", "settled", "unsaid")

    def __init__(self, pod: PodView, report: ModelReport | None, is_stale: bool) -> None:
        self._pod, self._report, self._is_stale = pod, report, is_stale
        self.says: Mapping[str, ReportedModel] = {} if report is None else report.models
        self.unsaid = judge(CopyInput(pod, report, None, None, is_stale))
        settled = judge(CopyInput(pod, report, _SETTLED, _SETTLED.revision, is_stale))
        self.settled = replace(settled, reported=None) if settled.ready else None

    def judge(self, said: ReportedModel, revision: str | None) -> Copy:
        """Judge a copy by its pod's report."""
        return judge(CopyInput(self._pod, self._report, said, revision, self._is_stale))


class PodViews:
    """All pods of a service that are meant to serve."""

    def __init__(
        self,
        pods: Iterable[PodView],
        reports: Mapping[str, ModelReport],
        stale: AbstractSet[str] = frozenset(),
    ) -> None:
        """Prepare to be asked; `stale` holds the uids of pods whose report is too quiet."""
        self._witnesses = [
            Witness(pod, reports.get(pod.uid), pod.uid in stale)
            for pod in sorted(pods, key=lambda pod: pod.name)
            if pod.is_desired
        ]

    def evaluate(self, name: str, revision: str | None) -> list[Copy]:
        """Judge a model's copy in each pod, the least advanced first, equals by the pod's name."""
        copies: list[Copy] = []
        last: ReportedModel | None = None
        are_settled, is_settled = True, False
        for witness in self._witnesses:
            said = witness.says.get(name)
            if said is not last:  # a reader keeps equal words once: mostly it is the same object
                last, is_settled = said, said is not None and _is_settled(said, revision)
            if is_settled and witness.settled is not None:
                copies.append(witness.settled)
                continue
            are_settled = False
            copies.append(witness.unsaid if said is None else witness.judge(said, revision))
        if not are_settled:
            copies.sort(key=_advance)
        return copies


def _is_settled(said: ReportedModel, revision: str | None) -> bool:
    return (
        said.revision == revision
        and revision is not None
        and said.state == _LOADED
        and said.loaded_revision in {None, revision}
    )


def _advance(copy: Copy) -> int:
    return ADVANCE[copy.state]
