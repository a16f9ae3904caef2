"""The images of the project and of the servers that end-to-end tests run, as recipes."""

from pathlib import Path

from trainedmodel_devkit.environments import checkout
from trainedmodel_devkit.realnode.images import Recipe

OPERATOR_IMAGE = "localhost/trainedmodel-operator:e2e"
PULLER_IMAGE = "localhost/trainedmodel-puller:e2e"
MLSERVER_IMAGE = "localhost/trainedmodel-mlserver:e2e"

# MLServer alone knows that its image is not for production: worker processes off, as in the devkit.
_MLSERVER = """\
ARG BASE
FROM ${BASE} AS build
COPY requirements.txt install.sh /build/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt sh /build/install.sh
FROM ${BASE}
COPY --from=build /opt/mlserver /opt/mlserver
ENV PATH=/opt/mlserver/bin:/usr/bin:/bin HOME=/tmp \\
    MLSERVER_PARALLEL_WORKERS=0 MLSERVER_LOAD_MODELS_AT_STARTUP=false
WORKDIR /tmp
USER 1000:1000
ENTRYPOINT ["mlserver"]
CMD ["start", "/mnt/models"]
"""
_MLSERVER_INSTALL = Path(__file__).with_name("mlserver_install.sh")


def operator_recipe() -> Recipe:
    """Return the recipe of `Dockerfile.operator`."""
    return _program("operator", OPERATOR_IMAGE)


def puller_recipe() -> Recipe:
    """Return the recipe of `Dockerfile.puller`."""
    return _program("puller", PULLER_IMAGE)


def mlserver_recipe() -> Recipe:
    """Return the recipe of an MLServer with its scikit-learn runtime, for tests."""
    context = {
        "requirements.txt": checkout() / "requirements" / "mlserver.txt",
        "install.sh": _MLSERVER_INSTALL,
    }
    return Recipe(MLSERVER_IMAGE, _MLSERVER, context, expected_s=120)


def _program(member: str, name: str) -> Recipe:
    root = checkout()
    places = [
        *("contract/pyproject.toml", "contract/src"),
        *(f"{member}/pyproject.toml", f"{member}/src"),
        *("requirements/build.txt", f"requirements/{member}.txt", "images"),
    ]
    dockerfile = (root / f"Dockerfile.{member}").read_text()
    return Recipe(name, dockerfile, {place: root / place for place in places}, expected_s=40)
