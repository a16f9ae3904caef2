"""Images for the node, built here from local parts and kept in the cache by their content.

An image is an archive file whose name carries a hash of all that went into it: what is there is
never built again, and a changed source is another file. Builds run in buildah with its chroot
isolation, in a store of their own below the cache folder; nothing is pulled from a registry of
images. The base is a minimal Debian of this machine's package mirror.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainedmodel_devkit.binaries import node_binaries
from trainedmodel_devkit.cache import building, cache_folder, locked
from trainedmodel_devkit.errors import BuildFailed
from trainedmodel_devkit.processes import run_to_end, scratch
from trainedmodel_devkit.progress import step
from trainedmodel_devkit.realnode.containerd import PAUSE_IMAGE

_RELEASE = "bookworm"
_BASE_PACKAGES = ("ca-certificates", "python3", "python3-venv")
_LEFT_OUT = ("doc", "info", "locale", "man")
"""Folders of /usr/share that no container reads."""
_BASE_RECIPE = "2"
"""To be raised when the base must be made anew, for security updates of its packages for one."""
_KEPT = 3
"""Archives of one image that stay: somebody may be about to import the one before."""
_RUNTIME = Path("/run/trainedmodel-buildah")


@dataclass(frozen=True)
class Recipe:
    """What an image is made of.

    Attributes:
        name: Its full name with the tag.
        dockerfile: Its text.
        context: Files and folders by their place in the build context.
        expected_s: How long the build takes as a rule.
        base_packages: What the minimal Debian holds that the Dockerfile takes as its build argument
            `BASE`; empty if it takes none.
    """

    name: str
    dockerfile: str
    context: Mapping[str, Path] = field(default_factory=dict)
    expected_s: float = 30
    base_packages: tuple[str, ...] = _BASE_PACKAGES

    def digest(self) -> str:
        """Hash everything that decides the image's content."""
        packages = self.base_packages
        base = f"{_RELEASE} {_BASE_RECIPE} {' '.join(packages)}" if packages else ""
        total = hashlib.sha256(f"{self.name}\n{base}\n{self.dockerfile}".encode())
        for place, path in sorted(self.context.items()):
            for file in _files(path):
                relative = file.relative_to(path) if path.is_dir() else ""
                total.update(f"\n{place}/{relative}\n".encode())
                total.update(file.read_bytes())
        return total.hexdigest()[:16]


def ensure_image(recipe: Recipe) -> Path:
    """Return the archive of an image, built at first use.

    Raises:
        BuildFailed: with the end of the build's output.
    """
    short = recipe.name.rpartition("/")[2].replace(":", "-")
    target = cache_folder() / "images" / f"{short}-{recipe.digest()}.tar"
    if target.exists():
        target.touch()
        return target
    base = _ensure_base(recipe.base_packages) if recipe.base_packages else None
    # One build at a time: the store is one, and so is the machine.
    with _building_alone():
        if not target.exists():
            with step(f"building {recipe.name}", recipe.expected_s), building(target) as draft:
                _build(recipe, base, draft)
            _forget_old(target.parent.glob(f"{short}-*.tar"))
    return target


def pause_image() -> Path:
    """Return the archive of the image that holds a pod's namespaces."""
    dockerfile = 'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n'
    recipe = Recipe(
        PAUSE_IMAGE, dockerfile, {"pause": node_binaries().pause}, expected_s=2, base_packages=()
    )
    return ensure_image(recipe)


def layer_bytes(archive: Path) -> list[int]:
    """Return the unpacked sizes of an image's layers; the base's is the first."""
    with tarfile.open(archive) as content:
        manifest = content.extractfile("manifest.json")
        if manifest is None:
            raise BuildFailed(f"{archive} is no image")
        layers = json.load(manifest)[0]["Layers"]
        return [content.getmember(one).size for one in layers]


def _forget_old(archives: Iterable[Path]) -> None:
    """Remove what no run has asked for lately: each change of a source leaves an archive."""
    newest_first = sorted(archives, key=lambda one: one.stat().st_mtime, reverse=True)
    for archive in newest_first[_KEPT:]:
        archive.unlink(missing_ok=True)


def _ensure_base(packages: tuple[str, ...]) -> str:
    """Return the name of the base image with some packages, made at first use."""
    key = hashlib.sha256(f"{_BASE_RECIPE} {packages}".encode()).hexdigest()[:8]
    name = f"localhost/trainedmodel-base:{_RELEASE}-{key}"
    rootfs = cache_folder() / "images" / f"base-{_RELEASE}-{key}.tar"
    with _building_alone():
        if not rootfs.exists():
            with (
                step(f"making a Debian {_RELEASE} of {len(packages)} packages", 40),
                building(rootfs) as draft,
            ):
                options = [f"--include={','.join(packages)}"]
                options += [f"--dpkgopt=path-exclude=/usr/share/{one}/*" for one in _LEFT_OUT]
                _run(["mmdebstrap", "--variant=minbase", *options, _RELEASE, str(draft)])
        if not _buildah("images", "--quiet", "--filter", f"reference={name}"):
            container = _buildah("from", "scratch")
            try:
                _buildah("add", container, str(rootfs), "/")
                _buildah("config", "--env", "LANG=C.UTF-8", container)
                _buildah("commit", container, name)
            finally:
                _buildah("rm", container)
    return name


def _build(recipe: Recipe, base: str | None, archive: Path) -> None:
    with scratch("build-") as folder:
        context = folder / "context"
        context.mkdir()
        for place, source in recipe.context.items():
            target = context / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)
        dockerfile = folder / "Dockerfile"
        dockerfile.write_text(recipe.dockerfile)
        arguments = ["--isolation=chroot", "--layers", f"--file={dockerfile}"]
        if base is not None:
            arguments += [f"--build-arg=BASE={base}", *_secrets(folder)]
        _buildah("build", *arguments, f"--tag={recipe.name}", str(context))
        _buildah("push", recipe.name, f"docker-archive:{archive}:{recipe.name}")


def _secrets(folder: Path) -> Iterable[str]:
    """Hand this machine's way to its package index into the build, and leave none of it inside."""
    settings = subprocess.run(
        ["python3", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    wanted = {}
    for line in settings.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in ("global", "install", ":env:") and option.endswith("index-url"):
            wanted[option] = value.strip("'\"")
    config = folder / "pip.conf"
    lines = [f"{option} = {value}" for option, value in wanted.items()]
    config.write_text("\n".join(["[global]", *lines, ""]))
    yield f"--secret=id=pip.conf,src={config}"
    authorities = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if authorities and Path(authorities).is_file():
        yield f"--secret=id=ca.crt,src={authorities}"


def mend_store() -> None:
    """Remove what a killed build has left mounted; waits for a build that runs."""
    if (cache_folder() / "containers").exists():
        with _building_alone():
            pass


@contextlib.contextmanager
def _building_alone() -> Iterator[None]:
    """Hold the one store of images; what buildah keeps while it works goes with the build."""
    with locked("images"):
        _leave_store()
        try:
            yield
        finally:
            _leave_store()


def _leave_store() -> None:
    store = str(cache_folder() / "containers")
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in reversed(mounted):
        if place.startswith(f"{store}/"):
            _run(["umount", "--lazy", place])
    shutil.rmtree(_RUNTIME, ignore_errors=True)


def _buildah(*words: str) -> str:
    store = cache_folder() / "containers"
    options = ["--root", str(store), "--runroot", str(_RUNTIME), "--storage-driver", "overlay"]
    # Without it buildah makes /etc/cni/net.d on the machine, though its builds use no network.
    settings = _RUNTIME / "containers.conf"
    settings.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.write_text(f'[network]\nnetwork_config_dir = "{_RUNTIME}/cni"\n')
    env = {**os.environ, "CONTAINERS_CONF": str(settings)}
    return _run(["buildah", *options, *words], env).strip()


def _run(command: list[str], env: Mapping[str, str] | None = None) -> str:
    result = run_to_end(command, env=env)
    if result.returncode != 0:
        raise BuildFailed(f"{' '.join(command)}:\n{(result.stdout + result.stderr)[-6000:]}")
    return result.stdout


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(
        one for one in path.rglob("*") if one.is_file() and "__pycache__" not in one.parts
    )
