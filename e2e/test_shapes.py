"""The three forms of pods that KServe makes, with the labels and names that it gives them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from e2e.bench import Bench
from e2e.kubectl import Json
from e2e.workloads import kserve_custom, kserve_multi_model, kserve_storage_uri

FORMS = {
    "custom": kserve_custom,
    "multimodel": kserve_multi_model,
    "storageuri": kserve_storage_uri,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_pod_as_kserve_makes_it_serves_a_model(bench: Bench, form: str) -> None:
    build: Callable[[str, str], Json] = FORMS[form]
    name = bench.deploy(build(form, bench.provider.images.server))
    bench.apply(bench.model(f"in-{form}", form, bench.publish(f"in-{form}", 3)))
    bench.wait_ready(f"in-{form}")
    (pod,) = bench.pods(form)
    assert bench.predict(pod, f"in-{form}") == 3.0
    bench.kubectl("delete", "deployment", name, "--wait=false")
