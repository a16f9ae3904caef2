"""Documents of the API as users and pullers write them."""

from collections.abc import Iterable
from typing import Any

from trainedmodel_contract import names
from trainedmodel_contract.trainedmodel import parse_trained_model

Document = dict[str, Any]


def trained_model(
    name: str, /, service: str = "tabular", uri: str | None = None, **model: Any
) -> Document:
    """Make a TrainedModel; `model` has further fields of `spec.model`, such as `memory`."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "TrainedModel",
        "metadata": {"name": name},
        "spec": {
            "inferenceService": service,
            "model": {"storageUri": uri or f"s3://models/{name}", **model},
        },
    }


def loaded(models: Iterable[Document]) -> dict[str, Document]:
    """Return the part of a report that says that these models are loaded as they are."""
    return {
        model["metadata"]["name"]: {
            "state": "Loaded",
            "revision": parse_trained_model(model).revision(),
        }
        for model in models
    }
