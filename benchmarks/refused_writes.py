"""What refused writes cost everybody else, on a real API server: one change to its shard.

    python benchmarks/refused_writes.py [--services 100]

Real API server, real operator process with the shipped account and roles. There are twice as many
services as asked for. First nothing is refused. Then an admission policy refuses the annotation of
one pod in each service of the first half, and the ConfigMap of each service of the second half
(whose models come then). Both times single models of the first half change, one after the other.

The second figure shall be as the first one, and within 100 ms in the middle.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

import yaml
from trainedmodel_contract import names
from trainedmodel_devkit.crowd import Crowd
from trainedmodel_devkit.documents import Document, admission_policy, trained_model
from trainedmodel_devkit.operatorscene import OperatorScene

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE = "crowd"
CHANGES = 20
WITHIN_S = 0.1
REST_S = 5.0
POLICY = "refuse"


def policy() -> tuple[Document, Document]:
    """Return what refuses annotations of pods, and shards of the second half."""
    refused = "object.kind == 'Pod' || object.metadata.name.startsWith('refused-')"
    return admission_policy(
        POLICY,
        NAMESPACE,
        ["pods", "configmaps"],
        rule=f"!({refused})",
        message="refused",
        operations=["CREATE", "UPDATE"],
    )


async def changes(crowd: Crowd, what: str, label: str) -> float:
    """Change single models; return the median time from the answer to the shard's write."""
    times = []
    async with crowd.watching_shards() as watch:
        for number in range(CHANGES):
            patch = {"spec": {"model": {"version": f"{what}{number}"}}}
            await crowd.patch_model(f"well-{number}", patch)
            began = time.monotonic()
            shard = names.shard_name(f"well-{number}", 0)
            times.append(await watch.next_of(shard, began - 0.05) - began)
            await asyncio.sleep(0.3)
    median = statistics.median(times)
    print(f"{label}: median {median * 1000:.0f} ms, most {max(times) * 1000:.0f} ms", flush=True)
    return median


async def measure(services: int) -> bool:
    """Measure both; tell whether the promise holds."""
    with OperatorScene(ROOT) as scene:
        plane = scene.control_plane
        plane.kubectl("create", "namespace", NAMESPACE)
        async with Crowd(plane, NAMESPACE) as crowd:
            well = [f"well-{number}" for number in range(services)]
            await crowd.create_models(
                trained_model(name, name, framework="sklearn") for name in well
            )

            async def run_pod(name: str) -> None:
                uid = await crowd.create_pod(f"pod-{name}", name)
                await crowd.create_report(f"pod-{name}", uid, name)

            await crowd.all(*(run_pod(name) for name in well))
            scene.start()
            await asyncio.sleep(REST_S)
            await changes(crowd, "a", "nothing is refused")
            await asyncio.to_thread(
                plane.kubectl, "apply", "-f", "-", input=yaml.safe_dump_all(policy())
            )
            await asyncio.sleep(REST_S)
            refused = [f"refused-{number}" for number in range(services)]
            await crowd.create_models(
                trained_model(name, name, framework="sklearn") for name in refused
            )
            await asyncio.sleep(REST_S)
            median = await changes(crowd, "b", f"refused in each of {2 * services} services")
        log = scene.log()
        shards, nudges = log.count("shard_not_written"), log.count("pod_not_nudged")
        print(f"refused meanwhile: {shards} shards, {nudges} annotations", flush=True)
        return shards >= services and nudges >= CHANGES and median <= WITHIN_S


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--services", type=int, default=100)
    if not asyncio.run(measure(parser.parse_args().services)):
        sys.exit("the promise does not hold")


if __name__ == "__main__":
    main()
