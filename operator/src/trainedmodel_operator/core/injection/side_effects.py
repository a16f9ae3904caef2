"""Side effects of a puller on its pod as a whole, as warnings to the creator of the pod.

Nothing here refuses a pod. Only its owner knows whether the QoS class matters, and whether a quota
counts CPU limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from trainedmodel_contract import names
from trainedmodel_contract.quantity import parse_bytes, parse_millicores

from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.injection.resources import GUARANTEED, Resources

#: With less than this, in thousandths of a processor, a puller starts in 4 to 17 seconds.
_LITTLE_CPU: Final = 200
_MEASURES: Final = {"cpu": parse_millicores, "memory": parse_bytes}


def side_effects(pod: Document, puller: Resources) -> Iterator[str]:
    """Yield a warning for each thing that changes with the puller."""
    spec = pod["spec"]
    containers = (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
    if is_guaranteed(spec) and not puller.is_guaranteed:
        yield (
            "with the puller the pod's QoS class is Burstable, no longer Guaranteed. The "
            f"annotation {names.QOS_ANNOTATION}={GUARANTEED} keeps it: it makes the puller's "
            "requests equal to its limits"
        )
    if puller.cpu_limit and parse_millicores(puller.cpu_limit) < _LITTLE_CPU:
        yield (
            f"the puller's CPU limit is only {puller.cpu_limit}: it takes many seconds to start, "
            f"and downloads slowly. The annotation {names.CPU_LIMIT_ANNOTATION} changes the limit"
        )
    for resource, limit, annotation in (
        ("cpu", puller.cpu_limit, names.CPU_LIMIT_ANNOTATION),
        ("memory", puller.memory_limit, names.MEMORY_LIMIT_ANNOTATION),
    ):
        if not limit and _all_have(containers, resource):
            yield (
                f"all containers of the pod have a {resource} limit, and the puller has none: a "
                f"ResourceQuota on limits.{resource} would refuse the pod. Set the annotation "
                f"{annotation}"
            )


def is_guaranteed(spec: Document) -> bool:
    """Tell whether the pod's containers make its QoS class Guaranteed.

    With resources of the pod as a whole they do not decide it.
    """
    if spec.get("resources"):
        return False
    containers = (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
    return bool(containers) and all(
        _is_bounded(container, resource) for container in containers for resource in _MEASURES
    )


def _all_have(containers: Sequence[Document], resource: str) -> bool:
    return bool(containers) and all(_limit(one, resource) is not None for one in containers)


def _limit(container: Document, resource: str) -> object:
    return ((container.get("resources") or {}).get("limits") or {}).get(resource)


def _is_bounded(container: Document, resource: str) -> bool:
    """Tell whether a container's request is its limit; one that is not set is the limit."""
    limit = _limit(container, resource)
    if limit is None:
        return False
    requests = (container.get("resources") or {}).get("requests") or {}
    measure = _MEASURES[resource]
    try:
        return measure(str(requests.get(resource, limit))) == measure(str(limit)) > 0
    except ValueError:
        return False
