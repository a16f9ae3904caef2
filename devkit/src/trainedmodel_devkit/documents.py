"""Documents of the API as users and pullers write them."""

from collections.abc import Iterable, Sequence
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


def admission_policy(
    name: str,
    namespace: str,
    resources: Sequence[str],
    *,
    rule: str,
    message: str,
    operations: Sequence[str] = ("CREATE",),
) -> tuple[Document, Document]:
    """Make a policy, and its binding, that refuses core objects which do not fulfil a rule."""
    api = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    objects = {"apiGroups": [""], "apiVersions": ["v1"], "resources": list(resources)}
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    policy = {
        **api,
        "kind": "ValidatingAdmissionPolicy",
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": here,
                "resourceRules": [{**objects, "operations": list(operations)}],
            },
            "validations": [{"expression": rule, "message": message}],
        },
    }
    binding = {
        **api,
        "kind": "ValidatingAdmissionPolicyBinding",
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    return policy, binding
