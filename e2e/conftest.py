"""The cluster, the installation and the store, once for the whole suite."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from trainedmodel_devkit.binaries import helm_binary
from trainedmodel_devkit.kind import kind_cluster
from trainedmodel_devkit.realnode import NodeCluster, recipes
from trainedmodel_devkit.realnode.images import ensure_image
from trainedmodel_devkit.stores import S3Store

from e2e.bench import Bench
from e2e.figures import Figure, Record, table
from e2e.install import OPERATOR, SYSTEM, install
from e2e.kindprovider import KindProvider
from e2e.kubectl import Kubectl, Refused
from e2e.nodeprovider import NodeProvider
from e2e.providers import AnyCluster, Images, Provider, skip_reason
from e2e.workloads import Injection

_FIGURES = pytest.StashKey[list[Figure]]()
_LOCAL = Images(recipes.OPERATOR_IMAGE, recipes.PULLER_IMAGE, recipes.MLSERVER_IMAGE)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare where and with which images the suite runs."""
    group = parser.getgroup("trainedmodel")
    group.addoption("--provider", choices=["node", "kind", "kubeconfig"], default="node")
    group.addoption("--kubeconfig", type=Path, help="for the provider kubeconfig")
    group.addoption("--store-host", help="address of this machine that the pods reach")
    group.addoption("--operator-image", default=_LOCAL.operator)
    group.addoption("--puller-image", default=_LOCAL.puller)
    group.addoption("--server-image", default=_LOCAL.server)
    group.addoption(
        "--injection",
        choices=["auto", "webhook", "template"],
        default="auto",
        help="who adds the puller: the installed webhook, or the suite; auto: the webhook if there",
    )


@pytest.fixture(scope="session")
def images(pytestconfig: pytest.Config) -> Images:
    """Name the images that pods use."""
    option = pytestconfig.getoption
    return Images(option("operator_image"), option("puller_image"), option("server_image"))


@pytest.fixture(scope="session")
def provider(pytestconfig: pytest.Config, images: Images) -> Iterator[Provider]:
    """Bring the cluster up."""
    wanted = pytestconfig.getoption("provider")
    with contextlib.ExitStack() as stack:
        if wanted == "kubeconfig":
            host = pytestconfig.getoption("store_host")
            if not host:
                raise pytest.UsageError("--provider=kubeconfig needs --store-host")
            program = shutil.which("kubectl")
            if program is None:
                raise pytest.UsageError("--provider=kubeconfig needs kubectl on PATH")
            kubectl = Kubectl(Path(program), pytestconfig.getoption("kubeconfig"))
            yield AnyCluster(kubectl, images, host)
            return
        if wanted == "kind":
            in_docker = stack.enter_context(kind_cluster())
            in_docker.load_images(_archives())
            yield KindProvider(in_docker, images)
            return
        cluster = stack.enter_context(NodeCluster())
        cluster.load_images(_archives())
        yield NodeProvider(cluster, images)


def _archives() -> list[Path]:
    made = (recipes.operator_recipe, recipes.puller_recipe, recipes.mlserver_recipe)
    return [ensure_image(recipe()) for recipe in made]


@pytest.fixture(scope="session")
def helm_program() -> Path:
    """Compile helm: fixtures have no limit of time, tests have."""
    return helm_binary()


@pytest.fixture(scope="session")
def injection(
    pytestconfig: pytest.Config, provider: Provider, images: Images, installed: None
) -> Injection:
    """Decide who adds the puller."""
    wanted = pytestconfig.getoption("injection")
    selector = "--selector=app.kubernetes.io/part-of=trainedmodel"
    found = provider.kubectl.list_all("mutatingwebhookconfigurations", selector)
    by_webhook = wanted == "webhook" or (wanted == "auto" and bool(found))
    return Injection(by_webhook, images.puller)


@pytest.fixture(scope="session")
def installed(provider: Provider, images: Images, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Install what `deploy/` holds."""
    install(provider.kubectl, images, tmp_path_factory.mktemp("install"))


@pytest.fixture(scope="session")
def store(provider: Provider) -> Iterator[S3Store]:
    """Run an S3 server where the pods reach it."""
    with S3Store(provider.store_host) as running:
        yield running


@pytest.fixture(scope="module")
def bench(
    request: pytest.FixtureRequest, provider: Provider, store: S3Store, injection: Injection
) -> Iterator[Bench]:
    """Make a namespace for a module's tests, and take it away with all that is in it."""
    namespace = request.module.__name__.rpartition(".")[2].replace("_", "-")
    bench = Bench(provider, store, injection, namespace)
    yield bench
    bench.cluster()("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def record(pytestconfig: pytest.Config) -> Record:
    """Keep a figure for the table at the end."""
    return pytestconfig.stash.setdefault(_FIGURES, []).append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tell what was measured."""
    figures = config.stash.get(_FIGURES, [])
    if figures:
        terminalreporter.section("measured")
        for line in table(figures):
            terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Refuse builds while a test runs: they take minutes, and a test has a limit of time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINEDMODEL_NO_BUILDS", "1")
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Skip what the provider cannot do; add what pods and node said to a failure."""
    report = yield
    reason = None if call.excinfo is None else skip_reason(call.excinfo.value, call.when)
    if reason is not None:
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"Skipped: {reason}")
    elif report.failed and isinstance(item, pytest.Function):
        for section, text in _said(item.funcargs.get("bench"), item.funcargs.get("provider")):
            report.sections.append((section, text))
    return report


def _said(bench: object, provider: object) -> Iterator[tuple[str, str]]:
    if isinstance(bench, Bench):
        for words in (
            ("get", "tmodel,pods,modelreports", "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "--tail=30", "--prefix", "--all-containers", "-l", "trainedmodel.dev/inject"),
        ):
            with contextlib.suppress(Refused):
                yield f"kubectl {' '.join(words)}", bench.kubectl(*words)
    if isinstance(provider, NodeProvider | AnyCluster):
        operator = f"deployment/{OPERATOR}"
        for more in ((), ("--previous",)):
            with contextlib.suppress(Refused):
                said = provider.kubectl("-n", SYSTEM, "logs", "--tail=60", operator, *more)
                yield f"operator {' '.join(more)}", said
        yield "node", provider.logs()
