"""Documents that must be accepted, and documents that must be refused, by every validator alike."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any


def document(
    name: str = "iris", service: str = "tabular", model: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Make a TrainedModel; `model` overrides fields of spec.model."""
    return {
        "apiVersion": "trainedmodel.dev/v1alpha1",
        "kind": "TrainedModel",
        "metadata": {"name": name},
        "spec": {
            "inferenceService": service,
            "model": {"storageUri": "s3://models/iris", "framework": "sklearn", **(model or {})},
        },
    }


@dataclass(frozen=True)
class Case:
    """One document.

    Attributes:
        field: For refused ones: what the message must name.
        spec: Replaces the whole spec, when set.
    """

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    field: str = ""
    object_name: str = "iris"
    service: str = "tabular"
    spec: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """Return a fresh copy."""
        made = document(self.object_name, self.service, copy.deepcopy(self.model))
        if self.spec is not None:
            made["spec"] = copy.deepcopy(self.spec)
        return made


ACCEPTED = [
    Case("plain"),
    Case("memory as quantity", {"memory": "256Mi"}),
    Case("memory as integer", {"memory": 1024}),
    Case("memory with exponent", {"memory": "1e9"}),
    Case("served name", {"name": "Iris_v4.1-b"}),
    Case("digest", {"digest": "sha256:" + "a" * 64}),
    Case("version", {"version": "any text at all"}),
    Case("parameters", {"parameters": {"threads": "2"}}),
    Case("credentials", {"credentials": "team-a"}),
    Case("no framework", spec={"inferenceService": "t", "model": {"storageUri": "s3://b/x"}}),
    Case("unknown scheme, for the puller to judge", {"storageUri": "zz://b/x"}),
    Case("azure account in the authority", {"storageUri": "abfss://box@acc.dfs.example/m"}),
    Case("revision in a path", {"storageUri": "hf://org/model@v1"}),
    Case("signed link", {"storageUri": "https://host/m.zip?sig=a%2Fb"}),
    Case("file", {"storageUri": "file:///srv/models/m"}),
    Case("longest object name", object_name="x" * 63 + "." + "y" * 64),
    Case("dots in a path segment", {"storageUri": "s3://b/v1..2/x"}),
]

REFUSED = [
    Case("no service", spec={"model": {"storageUri": "s3://b/x"}}, field="inferenceService"),
    Case("no model", spec={"inferenceService": "t"}, field="model"),
    Case("no uri", spec={"inferenceService": "t", "model": {"framework": "x"}}, field="storageUri"),
    Case("upper case service", service="Tabular", field="inferenceService"),
    Case("long service", service="t" * 64, field="inferenceService"),
    Case("no scheme", {"storageUri": "models/iris"}, field="storageUri"),
    Case("empty uri", {"storageUri": ""}, field="storageUri"),
    Case("only a scheme", {"storageUri": "s3://"}, field="storageUri"),
    Case("password in the uri", {"storageUri": "https://a:b@host/x"}, field="storageUri"),
    Case("key in the uri", {"storageUri": "s3://key@b/x"}, field="storageUri"),
    Case("password before an azure account", {"storageUri": "abfs://a:b@c/x"}, field="storageUri"),
    Case("parent segments", {"storageUri": "s3://b/../x"}, field="storageUri"),
    Case("trailing parent segment", {"storageUri": "file:///srv/.."}, field="storageUri"),
    Case("fragment", {"storageUri": "https://h/x#y"}, field="storageUri"),
    Case("slash in the name", {"name": "a/b"}, field="name"),
    Case("dots in the name", {"name": "a..b"}, field="name"),
    Case("hidden name", {"name": ".a"}, field="name"),
    Case("long name", {"name": "a" * 129}, field="name"),
    Case("no quantity", {"memory": "lots"}, field="memory"),
    Case("negative memory", {"memory": "-1Gi"}, field="memory"),
    Case("short digest", {"digest": "sha256:abc"}, field="digest"),
    Case("other digest", {"digest": "md5:" + "a" * 64}, field="digest"),
    Case("number as parameter", {"parameters": {"a": 1}}, field="parameters"),
    Case("path as credentials", {"credentials": "../other"}, field="credentials"),
    Case("object name too long", object_name="x" * 63 + "." + "y" * 65, field="name"),
]
