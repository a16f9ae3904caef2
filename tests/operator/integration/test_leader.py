"""Replicas with a Lease: processes on a real API server, stopped, killed, frozen, cut off (O9)."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.operator.on_cluster import Cluster
from support.operator.replicas import (
    DEADLINE_S,
    DURATION_S,
    SOON_S,
    Election,
    Replica,
    bind_lease,
    grant_lease,
)
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.documents import loaded, trained_model
from trainedmodel_devkit.errors import CommandFailed
from trainedmodel_devkit.faultproxy import FaultProxy
from trainedmodel_devkit.operatorprocess import SYSTEM, operator_account
from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.waiting import wait_until
from trainedmodel_operator.__main__ import LOST
from trainedmodel_operator.core.certificates import Lifetimes
from trainedmodel_operator.webhook import pki

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

measured = logging.getLogger("measured")


@pytest.fixture
def election(control_plane: ControlPlane, cluster: Cluster, tmp_path: Path) -> Iterator[Election]:
    kubeconfig = operator_account(control_plane)
    grant_lease(control_plane, f"lease-of-{cluster.namespace}")
    running = Election(cluster, kubeconfig, tmp_path)
    try:
        yield running
    except BaseException:
        for replica in running.replicas:
            sys.stderr.write(f"--- {replica.log_file.name}\n{replica.log()[-10_000:]}")
        raise
    finally:
        running.stop()


def test_o9_of_two_replicas_one_works_and_nothing_is_written_twice(election: Election) -> None:
    cluster = election.cluster
    mark = cluster.control_plane.audit_mark()
    replicas = [election.start(), election.start()]
    wait_until(lambda: any(one.leads() for one in replicas), SOON_S)
    cluster.run_pod("pod-a")
    models = [trained_model(f"m{number:02}") for number in range(20)]
    cluster.apply(*models)
    wait_until(lambda: len(cluster.data()) == len(models) + 1, SOON_S)
    cluster.report("pod-a", loaded(models))
    wait_until(
        lambda: all(one.get("state") == "Loaded" for one in cluster.statuses().values()), SOON_S
    )
    assert sorted(one.leads() for one in replicas) == [False, True]
    leader, standby = sorted(replicas, key=Replica.leads, reverse=True)
    written = election.writes(mark)
    assert sum("configmaps" in one for one in written) <= 10
    per_model = [sum(f"status m{n:02} " in one for one in written) for n in range(len(models))]
    assert max(per_model) <= 3
    assert not [one for one in written if one.endswith(" 409")]
    assert election.lease()["holderIdentity"] == leader.identity
    assert (leader.leader_metric(), standby.leader_metric()) == (1, 0)


def test_o9_sigterm_hands_over_at_once(election: Election) -> None:
    cluster = election.cluster
    leader, standby = election.start_pair()
    cluster.apply(trained_model("before"))
    wait_until(lambda: "before.json" in cluster.data(), SOON_S)
    began = leader.send(signal.SIGTERM)
    took_s = _seconds_until(standby.leads, began)
    cluster.apply(trained_model("after"))
    wait_until(lambda: "after.json" in cluster.data(), SOON_S)
    measured.warning("hand-over on SIGTERM: %.2f s", took_s)
    assert leader.wait(SOON_S) == 0
    assert leader.lines("lease_released"), "the standby need not wait until the Lease is over"
    assert set(cluster.data()) == {"_shard-0", "before.json", "after.json"}
    assert election.lease()["leaseTransitions"] == 1


def test_o9_a_webhook_that_lingers_does_not_delay_the_hand_over(
    election: Election, tmp_path: Path
) -> None:
    bundle = pki.start_anew(frozenset({"127.0.0.1"}), datetime.now(UTC), Lifetimes())
    (tmp_path / pki.CERTIFICATE).write_text(bundle.certificate)
    (tmp_path / pki.KEY).write_text(bundle.key)
    flags = (f"--webhook-port={free_port()}", f"--webhook-certificates={tmp_path}")
    leader, standby = election.start_pair(None, *flags)
    wait_until(lambda: leader.probe("/readyz")[0] == 200, SOON_S)
    began = leader.send(signal.SIGTERM)
    took_s = _seconds_until(standby.leads, began)
    assert leader.poll() is None, "its webhook still answers"
    assert leader.probe("/readyz")[0] == 503, "and it is not sent more"
    measured.warning("hand-over on SIGTERM beside a webhook: %.2f s", took_s)
    assert leader.wait(10) == 0


def test_o9_after_sigkill_the_standby_leads_when_the_lease_is_over(election: Election) -> None:
    leader, standby = election.start_pair()
    began = leader.send(signal.SIGKILL)
    took_s = _seconds_until(standby.leads, began)
    measured.warning("hand-over on SIGKILL: %.2f s, the Lease lasts %d s", took_s, DURATION_S)
    assert took_s > DURATION_S - DEADLINE_S


def test_o9_a_leader_that_was_frozen_and_thawed_writes_nothing_and_ends(
    election: Election,
) -> None:
    cluster = election.cluster
    leader, standby = election.start_pair()
    cluster.run_pod("pod-a")
    cluster.apply(*[trained_model(f"m{number:02}") for number in range(30)])
    wait_until(cluster.data, SOON_S)
    leader.send(signal.SIGSTOP)  # in the middle of its writes
    wait_until(standby.leads, SOON_S)
    wait_until(lambda: _all_told(cluster), SOON_S)
    standby.send(signal.SIGSTOP)  # so that whatever is written now is the other's
    time.sleep(0.5)
    cluster.kubectl(
        "delete", "tmodel", "m00"
    )  # there is something to write, and a watch that tells it
    mark, thawed_at = cluster.control_plane.audit_mark(), datetime.now(UTC)
    leader.send(signal.SIGCONT)
    assert leader.wait(SOON_S) == LOST
    assert election.writes(mark, begun_after=thawed_at) == []
    assert "m00.json" in cluster.data()
    assert leader.lines("leadership_lost")
    assert not leader.lines("operator_failed")


def test_o9_a_leader_that_cannot_reach_the_api_ends_and_the_standby_leads(
    control_plane: ControlPlane, election: Election, tmp_path: Path
) -> None:
    with FaultProxy(control_plane) as proxy:
        leader, standby = election.start_pair(proxy.kubeconfig(election.kubeconfig, tmp_path))
        with proxy.refusing_connections():
            assert leader.wait(SOON_S) == LOST
            wait_until(standby.leads, SOON_S)
    (lost,), (led,) = leader.lines("leadership_lost"), standby.lines("leadership_acquired")
    assert lost["error"] == f"not renewed for {DEADLINE_S} s"
    assert lost["timestamp"] < led["timestamp"], "who leads ends before the next one may begin"


def test_o9_after_an_outage_one_leads_of_those_that_waited_for_its_end(
    control_plane: ControlPlane, election: Election, tmp_path: Path
) -> None:
    with FaultProxy(control_plane) as proxy:
        through_proxy = proxy.kubeconfig(election.kubeconfig, tmp_path)
        leader = election.start(through_proxy)
        wait_until(leader.leads, SOON_S)
        waiting = [election.start(through_proxy)]
        wait_until(lambda: waiting[0].lines("standing_by"), SOON_S)
        with proxy.refusing_connections():
            assert leader.wait(SOON_S) == LOST
            waiting.append(election.start(through_proxy))  # as the kubelet does
            wait_until(lambda: all(one.lines("lease_not_reached") for one in waiting), SOON_S)
        wait_until(lambda: any(one.leads() for one in waiting), SOON_S)
        election.cluster.apply(trained_model("iris"))
        wait_until(lambda: "iris.json" in election.cluster.data(), SOON_S)
        assert sorted(one.leads() for one in waiting) == [False, True]
        assert [one.poll() for one in waiting] == [None, None]


def test_o9_a_lease_that_somebody_deletes_is_made_anew_by_its_leader(election: Election) -> None:
    leader, standby = election.start_pair()
    election.cluster.control_plane.kubectl("-n", SYSTEM, "delete", "lease", election.name)
    wait_until(lambda: election.lease().get("holderIdentity") == leader.identity, SOON_S)
    election.cluster.apply(trained_model("iris"))
    wait_until(lambda: "iris.json" in election.cluster.data(), SOON_S)
    assert leader.leads()
    assert not standby.leads()


def test_o9_a_lease_that_somebody_gives_to_a_stranger_ends_its_leader(election: Election) -> None:
    leader, standby = election.start_pair()
    patch = json.dumps({"spec": {"holderIdentity": "stranger"}})
    began = time.monotonic()
    election.cluster.control_plane.kubectl(
        "-n", SYSTEM, "patch", "lease", election.name, "--type=merge", "-p", patch
    )
    assert leader.wait(SOON_S) == LOST
    (line,) = leader.lines("leadership_lost")
    assert line["error"] == "stranger holds the Lease"
    assert _seconds_until(standby.leads, began) > DURATION_S - 1, "a stranger is given its time"


def test_who_may_not_touch_leases_says_so_and_works_once_it_may(
    control_plane: ControlPlane, election: Election
) -> None:
    control_plane.kubectl("-n", SYSTEM, "delete", "rolebinding", election.name)
    wait_until(lambda: not _may_get(control_plane, election.name), SOON_S)
    replica = election.start()
    (line,) = wait_until(lambda: replica.lines("lease_not_reached"), SOON_S)
    assert "grant get, create and patch of leases" in line["error"]
    status, body = replica.probe("/readyz")
    assert (status, body["reason"]) == (503, "the API server has not answered yet")
    assert replica.probe("/healthz")[0] == 200
    bind_lease(control_plane, election.name)
    wait_until(replica.leads, SOON_S)
    wait_until(lambda: replica.probe("/readyz")[0] == 200, SOON_S)


def test_probes_tell_who_leads(election: Election) -> None:
    leader, standby = election.start_pair()
    wait_until(lambda: "a resync finished" in leader.probe("/healthz")[1]["reason"], SOON_S)
    for replica, leads in ((leader, True), (standby, False)):
        for path in ("/healthz", "/readyz"):
            status, body = replica.probe(path)
            assert (status, body["ok"], body["leader"]) == (200, True, leads), body
    assert standby.probe("/healthz")[1]["reason"] == "standing by"


def test_outside_a_cluster_nobody_is_elected_unless_asked_to(election: Election) -> None:
    flags = (f"--namespace={election.cluster.namespace}", f"--lease-name={election.name}")
    log = election.log_file()
    replica = Replica(election.kubeconfig, log, *flags)
    election.replicas.append(replica)
    wait_until(lambda: replica.probe("/readyz")[0] == 200, SOON_S)
    status, body = replica.probe("/healthz")
    assert (status, body["leader"], replica.leader_metric()) == (200, True, 1)
    assert election.lease() == {}


def _seconds_until(look: Callable[[], bool], began: float) -> float:
    """Wait until something is so, looking often, and return how long that took."""
    while not look():
        assert time.monotonic() - began < SOON_S
        time.sleep(0.01)
    return time.monotonic() - began


def _all_told(cluster: Cluster) -> bool:
    statuses = cluster.statuses()
    return len(statuses) == 30 and all(one.get("state") for one in statuses.values())


def _may_get(control_plane: ControlPlane, name: str) -> bool:
    account = f"system:serviceaccount:{SYSTEM}:trainedmodel-operator"
    what = ("get", f"leases.coordination.k8s.io/{name}")
    try:
        control_plane.kubectl("-n", SYSTEM, "auth", "can-i", *what, f"--as={account}")
    except CommandFailed:
        return False
    return True
