from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from click.testing import CliRunner
from trainedmodel_operator import __main__, app
from trainedmodel_operator.core.injection.resources import settle
from trainedmodel_operator.errors import ConfigurationError, LeadershipLost
from trainedmodel_operator.observability.logs import configure_logs
from trainedmodel_operator.settings import Settings
from trainedmodel_operator.watch.kopf_runner import kopf_settings


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:], logging.root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    given: list[Settings] = []

    async def run(settings: Settings) -> None:
        given.append(settings)

    monkeypatch.setattr(__main__, "run", run)
    return given


def test_it_needs_no_argument(started: list[Settings]) -> None:
    assert CliRunner().invoke(__main__.main, []).exit_code == 0
    assert started == [Settings()]


def test_options_and_variables_say_the_same(started: list[Settings]) -> None:
    runner = CliRunner()
    options = [
        "--namespace",
        "a",
        "--namespace",
        "b",
        "--metrics-port",
        "0",
        "--log-level",
        "error",
    ]
    runner.invoke(__main__.main, options)
    variables = {
        "TRAINEDMODEL_OPERATOR_NAMESPACE": "a b",
        "TRAINEDMODEL_OPERATOR_METRICS_PORT": "0",
        "TRAINEDMODEL_OPERATOR_LOG_LEVEL": "error",
    }
    runner.invoke(__main__.main, [], env=variables)
    assert (
        started[0]
        == started[1]
        == Settings(namespaces=("a", "b"), metrics_port=0, log_level="error")
    )


@pytest.mark.parametrize("given", ["a,b", "a b", " a,  b,a ", "a,,b"])
def test_namespaces_stand_between_commas_or_spaces_and_each_counts_once(
    started: list[Settings], given: str
) -> None:
    runner = CliRunner()
    assert runner.invoke(__main__.main, ["--namespace", given]).exit_code == 0
    runner.invoke(__main__.main, [], env={"TRAINEDMODEL_OPERATOR_NAMESPACE": given})
    assert [one.namespaces for one in started] == [("a", "b"), ("a", "b")]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("team-*", "patterns are not supported"),
        ("^team$", "patterns are not supported"),
        ("Team", "lower-case letters"),
        ("a.b", "lower-case letters"),
        ("-a", "lower-case letters"),
        ("a" * 64, "at most 63"),
        ("a;b", "lower-case letters"),
        (" ", "the value names no namespace"),
        (",", "the value names no namespace"),
    ],
)
def test_what_can_be_no_namespace_is_refused_with_words(
    started: list[Settings], given: str, words: str
) -> None:
    variable = {"TRAINEDMODEL_OPERATOR_NAMESPACE": given}
    by_variable = CliRunner().invoke(__main__.main, [], env=variable)
    by_option = CliRunner().invoke(__main__.main, ["--namespace", given])
    for result in (by_variable, by_option):
        assert result.exit_code == 2
        assert words in " ".join(result.output.replace("│", " ").split())
    assert started == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--namespace", ""),
        ("--lease-namespace", "a.b"),
        ("--lease-namespace", "team-*"),
        ("--resync-s", "nan"),
        ("--resync-s", "inf"),
        ("--lease-renew-deadline-s", "nan"),
        ("--lease-retry-s", "inf"),
    ],
)
def test_a_value_that_can_match_nothing_or_is_no_number_is_refused(
    started: list[Settings], arguments: tuple[str, str]
) -> None:
    assert CliRunner().invoke(__main__.main, list(arguments)).exit_code == 2
    assert started == []


def test_a_misspelt_variable_is_told_with_the_one_that_was_meant(
    started: list[Settings], capfd: pytest.CaptureFixture[str]
) -> None:
    variables = {
        "TRAINEDMODEL_OPERATOR_NAMSPACE": "a",
        "TRAINEDMODEL_OPERATOR_PORT_9190_TCP_ADDR": "10.0.0.1",  # of a Service of this name
        "TRAINEDMODEL_OPERATOR_SERVICE_HOST": "10.0.0.1",
        "TRAINEDMODEL_OPERATOR_LOG_LEVEL": "info",
    }
    with pytest.MonkeyPatch.context() as patched:
        for name, value in variables.items():
            patched.setenv(name, value)
        __main__.main([], standalone_mode=False)
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(one["variable"], one["did_you_mean"]) for one in told] == [
        ("TRAINEDMODEL_OPERATOR_NAMSPACE", "TRAINEDMODEL_OPERATOR_NAMESPACE")
    ]


def test_help_names_every_variable_and_hides_what_is_for_tests() -> None:
    text = CliRunner().invoke(__main__.main, ["--help"]).output
    for option in (
        "NAMESPACE",
        "METRICS_PORT",
        "HEALTH_PORT",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "LEADER_ELECT",
    ):
        assert f"TRAINEDMODEL_OPERATOR_{option}" in text
    assert "resync" not in text
    assert "lease-retry" not in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--puller-memory-request=2Gi", "--puller-memory-limit=1Gi"],
            "--puller-memory-request=2Gi is more than --puller-memory-limit=1Gi",
        ),
        (
            ["--puller-cpu-request=1", "--puller-cpu-limit=500m"],
            "--puller-cpu-request=1 is more than --puller-cpu-limit=500m",
        ),
        (
            ["--puller-qos=guaranteed", "--puller-cpu-request=1", "--puller-cpu-limit=2"],
            "--puller-qos=guaranteed needs a request that is equal to its limit",
        ),
        (["--puller-cpu-request=lots"], "must be a CPU quantity"),
        (["--puller-memory-limit=0"], "must be greater than zero"),
        (["--puller-run-as-user=0"], "the numeric ID of a user that is not root"),
        (["--metrics-port=8080"], "--metrics-port and --health-port are both 8080"),
        (["--webhook-port=9190"], "--metrics-port and --webhook-port are both 9190"),
    ],
)
def test_flags_that_no_pod_could_live_with_are_refused_at_the_start(
    started: list[Settings], flags: list[str], words: str
) -> None:
    result = CliRunner().invoke(__main__.main, flags)
    assert result.exit_code != 0
    assert words in result.output
    assert started == []


def test_one_of_two_flags_that_belong_together_is_enough(started: list[Settings]) -> None:
    assert CliRunner().invoke(__main__.main, ["--puller-memory-request=2Gi"]).exit_code == 0
    assert settle(started[0].webhook.injection.resources).memory_limit == "2Gi"
    ports = ["--metrics-port=0", "--health-port=0", "--webhook-port=0"]
    assert CliRunner().invoke(__main__.main, ports).exit_code == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("no way"), 1),
        (KeyboardInterrupt(), 130),
        (RuntimeError("bug"), 1),
        (LeadershipLost("it is another's"), 75),
    ],
)
def test_how_it_ends_is_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    async def run(_: Settings) -> None:
        raise error

    monkeypatch.setattr(__main__, "run", run)
    assert CliRunner().invoke(__main__.main, []).exit_code == code


def test_a_line_is_one_json_object_whoever_wrote_it(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(log_format="json"))
    structlog.get_logger().info("pod_nudged", pod="a")
    logging.getLogger("library").warning("of a library")
    logging.getLogger("kopf").info("inner life")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["pod_nudged", "of a library"]


def test_a_traceback_for_people_shows_no_values(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(log_format="console"))
    secret = "token-" + "x" * 5
    try:
        raise RuntimeError("bug")
    except RuntimeError:
        structlog.get_logger().exception("failed")
    assert "RuntimeError: bug" in (text := capfd.readouterr().err)
    assert secret not in text


def test_kopf_looks_for_no_kinds_and_posts_no_events() -> None:
    settings = kopf_settings()
    assert settings.scanning.disabled
    assert not settings.posting.enabled


@pytest.mark.parametrize("failure", [ConfigurationError("no way"), LeadershipLost("lost")])
def test_of_a_group_of_failures_the_one_that_says_it_all_is_reported(failure: Exception) -> None:
    inner = ExceptionGroup("lease", [failure])
    assert app._what_failed(ExceptionGroup("all", [RuntimeError("bug"), inner])) is failure
    bug = ExceptionGroup("all", [RuntimeError("bug")])
    assert app._what_failed(bug) is bug
