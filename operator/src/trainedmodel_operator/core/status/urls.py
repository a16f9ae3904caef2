"""URLs: the address of one model, from its service's URL and the kind of its server.

As in KServe, the address is the service's own URL and the path of the model in it. The server
determines the path, so the address is unknown until a report names the kind of the server:

- the v2 protocol (Triton, MLServer, KServe, OpenVINO): `<service>/v2/models/<name>`, to which
  callers append `/infer` or `/ready`;
- TensorFlow Serving: `<service>/v1/models/<name>`, to which they append `:predict`;
- TorchServe and the multi model server: `<service>/predictions/<name>`;
- servers that speak the OpenAI API (vLLM, SGLang, llama-server): `<service>/v1`, because the
  request names the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from trainedmodel_contract.modelreport import ModelReport

#: A longer one is not told: it could only be a mistake.
MOST_URL: Final = 2048

_PATHS: Final = {
    **dict.fromkeys(("triton", "mlserver", "kserve", "ovms", "v2"), "/v2/models/{name}"),
    "tfs": "/v1/models/{name}",
    **dict.fromkeys(("torchserve", "mms"), "/predictions/{name}"),
    **dict.fromkeys(("vllm", "sglang", "llama"), "/v1"),
}


def server_path(reports: Iterable[ModelReport]) -> str | None:
    """Return the path of a model in what the pods say their servers are; None if none says it.

    While pods disagree (a service moves to another server), the first kind in the alphabet counts:
    the answer must not depend on their order.
    """
    kinds = {report.server.kind for report in reports if report.server is not None}
    return next((_PATHS[kind] for kind in sorted(filter(None, kinds)) if kind in _PATHS), None)


def model_url(service: str | None, path: str | None, name: str) -> str | None:
    """Return a model's URL; None unless service and path are known."""
    if service is None or path is None:
        return None
    return service + path.format(name=name)


def service_url(status: object) -> str | None:
    """Read an InferenceService's URL from its status: `url`, else `address.url`; None if unusable.

    Another project owns the status, so its shape is checked.
    """
    if not isinstance(status, dict):
        return None
    address = status.get("address")
    within = address.get("url") if isinstance(address, dict) else None
    for found in (status.get("url"), within):
        if isinstance(found, str) and len(found) <= MOST_URL and _is_http(found):
            return found.rstrip("/")
    return None


def _is_http(url: str) -> bool:
    is_plain = url.isascii() and url.isprintable() and " " not in url
    return is_plain and url.startswith(("http://", "https://"))
