"""The election's flags, where its Lease lies, and what a process is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from trainedmodel_operator import __main__
from trainedmodel_operator.core.lease import Terms
from trainedmodel_operator.leadership.election import is_elected, lease_namespace, new_identity
from trainedmodel_operator.settings import LeaseSettings, Settings

IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


def settings_of(monkeypatch: pytest.MonkeyPatch, *flags: str, **variables: str) -> LeaseSettings:
    given: list[Settings] = []

    async def run(settings: Settings) -> None:
        given.append(settings)

    monkeypatch.setattr(__main__, "run", run)
    monkeypatch.setattr(__main__, "configure_logs", lambda _: None)
    result = CliRunner().invoke(__main__.main, flags, env=variables)
    assert result.exit_code == 0, result.output
    return given[0].lease


def test_replicas_elect_in_a_cluster_and_nowhere_else_unless_asked_to() -> None:
    assert is_elected(LeaseSettings(), IN_CLUSTER)
    assert not is_elected(LeaseSettings(), {})
    assert not is_elected(LeaseSettings(), {**IN_CLUSTER, "KUBECONFIG": "/config"})
    assert is_elected(LeaseSettings(elect=True), {})
    assert not is_elected(LeaseSettings(elect=False), IN_CLUSTER)


def test_the_lease_lies_where_it_was_asked_for_else_beside_the_pod(tmp_path: Path) -> None:
    file = tmp_path / "namespace"
    none = LeaseSettings()

    def place(settings: LeaseSettings, served: tuple[str, ...], **variables: str) -> str:
        return lease_namespace(settings, served, variables, file)

    assert place(none, ()) == "trainedmodel-system"
    assert place(none, ("a", "b")) == "a"
    assert place(none, ("a",), POD_NAMESPACE="of-variable") == "of-variable"
    file.write_text("of-account\n")
    assert place(none, ("a",)) == "of-account"
    assert place(LeaseSettings(namespace="asked"), ("a",)) == "asked"


def test_a_process_has_a_name_that_the_one_before_it_in_the_pod_had_not() -> None:
    first, second = (new_identity({"POD_NAME": "operator-7"}) for _ in range(2))
    assert first.startswith("operator-7_")
    assert first != second
    assert new_identity({})


@pytest.mark.parametrize(
    ("flags", "elect"), [((), None), (("--leader-elect",), True), (("--no-leader-elect",), False)]
)
def test_an_election_can_be_asked_for_and_refused(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], elect: bool | None
) -> None:
    assert settings_of(monkeypatch, *flags) == LeaseSettings(elect=elect)


def test_flags_and_variables_of_the_lease_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {
        "LEASE_NAMESPACE": "place",
        "LEASE_NAME": "mine",
        "LEASE_DURATION_S": "30",
        "LEASE_RENEW_DEADLINE_S": "20",
        "LEASE_RETRY_S": "3",
    }
    flags = [f"--{key.lower().replace('_', '-')}={value}" for key, value in values.items()]
    variables = {f"TRAINEDMODEL_OPERATOR_{key}": value for key, value in values.items()}
    expected = LeaseSettings(
        elect=True,
        namespace="place",
        name="mine",
        terms=Terms(duration_s=30, renew_deadline_s=20, retry_s=3),
    )
    assert settings_of(monkeypatch, "--leader-elect", *flags) == expected
    assert (
        settings_of(monkeypatch, TRAINEDMODEL_OPERATOR_LEADER_ELECT="true", **variables) == expected
    )


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (
            "--lease-renew-deadline-s=15",
            "the duration (15 s) must be longer than the renew deadline (15 s)",
        ),
        (
            "--lease-retry-s=9",
            "the renew deadline (10 s) must leave time for two renewals, one every 9 s",
        ),
        ("--lease-duration-s=999", "2<=x<=120"),
        ("--lease-name=a/b", "is not a valid object name"),
    ],
)
def test_flags_that_cannot_work_are_refused_in_words(flag: str, said: str) -> None:
    result = CliRunner().invoke(__main__.main, [flag])
    assert result.exit_code != 0
    assert said in result.output
