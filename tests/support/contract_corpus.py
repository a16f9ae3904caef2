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
    Case("three dots as a segment", {"storageUri": "s3://b/.../x"}),
    Case("dots in a query", {"storageUri": "https://h/x?a=/../b"}),
    Case("at sign in a path", {"storageUri": "https://h/a@b:c@d"}),
    Case("port", {"storageUri": "http://minio.store.svc:9000/b/x"}),
    Case("host of six groups", {"storageUri": "http://[::1]:9000/b/x"}),
    Case("letters of any script", {"storageUri": "s3://b/modèle/模型"}),
    Case("spaces in a path", {"storageUri": "s3://models/My Models/iris v1"}),
    Case("spaces in a folder's path", {"storageUri": "pvc://claim/My Models/"}),
    Case("escape in a path, taken as written", {"storageUri": "s3://b/My%20Models"}),
    Case("escape in an http address", {"storageUri": "https://h/My%20Models/m.zip"}),
    Case("two spaces", {"storageUri": "gs://b/a  b/ c"}),
    Case("revision as kserve writes it", {"storageUri": "hf://org/model:v1"}),
    Case("longest uri", {"storageUri": "s3://b/" + "x" * 2041}),
    Case("claim", {"storageUri": "pvc://claim/folder"}),
    Case("scheme with plus and dots", {"storageUri": "a1+b.c-d://x"}),
    Case("memory zero", {"memory": 0}),
    Case("memory zero in words", {"memory": "0"}),
    Case("memory below a byte", {"memory": "1m"}),
    Case("memory with a sign", {"memory": "+1.5Gi"}),
    Case("most memory", {"memory": 2**60}),
    Case("most memory in words", {"memory": "1Ei"}),
    Case("memory in exa", {"memory": "1E"}),
    Case("longest served name", {"name": "a" * 128}),
    Case("served name with an underscore in front", {"name": "_a"}),
    Case("longest service", service="t" * 63),
    Case("service of one letter", service="t"),
    Case("service of digits", service="1"),
    Case("empty framework", {"framework": ""}),
    Case("longest version", {"version": "v" * 256}),
    Case("version of any letters", {"version": "é\n 版"}),
    Case("empty version", {"version": ""}),
    Case("no parameters", {"parameters": {}}),
    Case("most parameters", {"parameters": {f"p{n}": "" for n in range(64)}}),
    Case("longest parameter", {"parameters": {"k" * 253: "v" * 4096}}),
    Case("parameter name of any letters", {"parameters": {"a/b é": "x"}}),
    Case("longest credentials", {"credentials": "c" * 63}),
    Case("nothing where something is optional", {"digest": None, "memory": None, "name": None}),
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
    Case("password after an azure box", {"storageUri": "abfs://a@b:c@d/x"}, field="storageUri"),
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
    Case("empty service", service="", field="inferenceService"),
    Case("service that ends with a dash", service="t-", field="inferenceService"),
    Case("service with a dot", service="a.b", field="inferenceService"),
    Case("service with a line's end", service="tabular\n", field="inferenceService"),
    Case("upper case scheme", {"storageUri": "S3://b/x"}, field="storageUri"),
    Case("digit before the scheme", {"storageUri": "3s://b/x"}, field="storageUri"),
    Case("one slash", {"storageUri": "s3:/b/x"}, field="storageUri"),
    Case("space in an http address", {"storageUri": "https://h/x y"}, field="storageUri"),
    Case("space in an http query", {"storageUri": "http://h/x?a=b c"}, field="storageUri"),
    Case("space in a bucket", {"storageUri": "s3://my bucket/x"}, field="storageUri"),
    Case("space before the uri", {"storageUri": " s3://b/x"}, field="storageUri"),
    Case("space after the uri", {"storageUri": "s3://b/x "}, field="storageUri"),
    Case("space after a query", {"storageUri": "s3://b/x?y "}, field="storageUri"),
    Case("wide space in the uri", {"storageUri": "s3://b/x\u3000y"}, field="storageUri"),
    Case("tab in the uri", {"storageUri": "s3://b/x\ty"}, field="storageUri"),
    Case("line and path after it", {"storageUri": "s3://b/x\ny"}, field="storageUri"),
    Case("line in the uri", {"storageUri": "s3://b/x\n"}, field="storageUri"),
    Case("no-break space in the uri", {"storageUri": "s3://b/x\xa0y"}, field="storageUri"),
    Case("line separator in the uri", {"storageUri": "s3://b/x\u2028y"}, field="storageUri"),
    Case("control character in the uri", {"storageUri": "s3://b/x\x7f"}, field="storageUri"),
    Case("next-line character in the uri", {"storageUri": "s3://b/x\x85"}, field="storageUri"),
    Case("only slashes", {"storageUri": "file:////"}, field="storageUri"),
    Case("only a query", {"storageUri": "https://?sig=x"}, field="storageUri"),
    Case("parent segment as bucket", {"storageUri": "s3://../x"}, field="storageUri"),
    Case("own segment", {"storageUri": "s3://b/./x"}, field="storageUri"),
    Case("parent segment before a query", {"storageUri": "s3://b/..?x"}, field="storageUri"),
    Case("fragment after a query", {"storageUri": "https://h/x?a#y"}, field="storageUri"),
    Case("fragment right after the host", {"storageUri": "https://h#y"}, field="storageUri"),
    Case("token in the uri", {"storageUri": "hf://token@org/model"}, field="storageUri"),
    Case("empty user info", {"storageUri": "https://@host/x"}, field="storageUri"),
    Case("two at signs", {"storageUri": "https://a@b@host/x"}, field="storageUri"),
    Case("longer uri", {"storageUri": "s3://b/" + "x" * 2042}, field="storageUri"),
    Case("number as uri", {"storageUri": 7}, field="storageUri"),
    Case("empty name", {"name": ""}, field="name"),
    Case("dash before the name", {"name": "-a"}, field="name"),
    Case("line after the name", {"name": "a\n"}, field="name"),
    Case("foreign letters in the name", {"name": "é"}, field="name"),
    Case("escape in the name", {"name": "a%2Fb"}, field="name"),
    Case("negative number of bytes", {"memory": -1}, field="memory"),
    Case("no text", {"memory": ""}, field="memory"),
    Case("space in the memory", {"memory": "1 Gi"}, field="memory"),
    Case("unit alone", {"memory": "Gi"}, field="memory"),
    Case("unit of bytes", {"memory": "1GB"}, field="memory"),
    Case("line after the memory", {"memory": "1Gi\n"}, field="memory"),
    Case("yes as memory", {"memory": True}, field="memory"),
    Case("a fraction as memory", {"memory": 1.5}, field="memory"),
    Case("a byte too much memory", {"memory": 2**60 + 1}, field="memory"),
    Case("too much memory", {"memory": "1.1Ei"}, field="memory"),
    Case("more memory than 64 bits hold", {"memory": "9Ei"}, field="memory"),
    Case("too much memory by exponent", {"memory": "1e99"}, field="memory"),
    Case("too many digits", {"memory": "1" * 65}, field="memory"),
    Case("upper case framework", {"framework": "SKLearn"}, field="framework"),
    Case("long framework", {"framework": "f" * 65}, field="framework"),
    Case("long version", {"version": "v" * 257}, field="version"),
    Case("number as version", {"version": 4}, field="version"),
    Case("upper case digest", {"digest": "sha256:" + "A" * 64}, field="digest"),
    Case("long digest", {"digest": "sha256:" + "a" * 65}, field="digest"),
    Case("digest without its kind", {"digest": "a" * 64}, field="digest"),
    Case("line after the digest", {"digest": "sha256:" + "a" * 64 + "\n"}, field="digest"),
    Case("list as parameters", {"parameters": ["a"]}, field="parameters"),
    Case("too many parameters", {"parameters": {f"p{n}": "" for n in range(65)}}, "parameters"),
    Case("long parameter", {"parameters": {"a": "v" * 4097}}, field="parameters"),
    Case("long parameter name", {"parameters": {"k" * 254: "v"}}, field="parameters"),
    Case("parameter without a name", {"parameters": {"": "v"}}, field="parameters"),
    Case("upper case credentials", {"credentials": "Team"}, field="credentials"),
    Case("no letters as credentials", {"credentials": ""}, field="credentials"),
    Case("long credentials", {"credentials": "c" * 64}, field="credentials"),
]
