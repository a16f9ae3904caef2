"""The report reader: parses reports, and keeps equal content once.

A service with 5,000 models in 100 pods has half a million reported models. Once they have settled,
a hundred of them are always equal. As separate objects they need half a gigabyte, and three seconds
to validate. So the reader keeps each distinct content once, for as long as some report has it, and
each model's name once. A further pod costs a table of pointers.

Content that cannot be looked up (nothing that the schema allows) is validated by itself, and the
validation names the fault.
"""

from __future__ import annotations

import sys
from typing import Any
from weakref import WeakValueDictionary

from trainedmodel_contract.modelreport import ModelReport, ReportedModel

from trainedmodel_operator.core.document import Document


class ReportReader:
    """Reads reports, sharing what is equal between them; pure but for that memory."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[Any, ...], ReportedModel] = WeakValueDictionary()

    def read(self, document: Document) -> ModelReport:
        """Read a report.

        Raises:
            pydantic.ValidationError: it is not one.
        """
        said = document.get("models") or {}
        head = ModelReport.model_validate({**document, "models": {}})
        if not isinstance(said, dict):
            return ModelReport.model_validate(document)
        models = {sys.intern(name): self._model(content) for name, content in said.items()}
        return head.model_copy(update={"models": models})

    def _model(self, content: Any) -> ReportedModel:
        try:
            key = tuple(content.items())
            known = self._known.get(key)
        except (AttributeError, TypeError):
            return ReportedModel.model_validate(content)
        if known is None:
            known = self._known[key] = ReportedModel.model_validate(content)
        return known
