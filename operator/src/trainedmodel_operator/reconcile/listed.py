"""The objects of one service as they were listed: models, shards, pods and reports."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainedmodel_contract.modelreport import ModelReport

from trainedmodel_operator.core.document import Document


@dataclass
class ListedObjects:
    """One service, as it was listed."""

    models: list[Document] = field(default_factory=list)
    shards: list[Document] = field(default_factory=list)
    pods: list[Document] = field(default_factory=list)
    reports: list[ModelReport] = field(default_factory=list)
