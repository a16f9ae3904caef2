"""Compile what a program imports, and nothing else: half the size of compiling all libraries.

The root file system is read-only in a pod, so what is not compiled here is compiled again at each
start. Of our environment the files are valid whatever time stamps the image builder gives to the
sources. Some bases come without the bytecode of Python's own library (python:slim does): what is
missing of that is laid out in a folder, to be copied over the base. It is valid only for the
sources that it was made of, so that an update of the base's Python in a later image is not ignored.

Usage: bytecode.py FOLDER MODULE...
"""

import importlib
import pkgutil
import py_compile
import sys
import sysconfig
from importlib.util import cache_from_source
from pathlib import Path

_MODE = py_compile.PycInvalidationMode


def main() -> None:
    """Import what is named, of our packages every module, and compile all that came with it."""
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        package = importlib.import_module(name)
        if name.startswith("trainedmodel_"):
            for found in pkgutil.walk_packages(package.__path__, f"{name}."):
                importlib.import_module(found.name)
    site, library = (Path(sysconfig.get_path(key)) for key in ("purelib", "stdlib"))
    folder.mkdir(parents=True, exist_ok=True)
    compiled = completed = 0
    for module in list(sys.modules.values()):
        source = getattr(module, "__file__", None)
        if not source or not source.endswith(".py"):
            continue
        parents, cached = Path(source).parents, Path(cache_from_source(source))
        if site in parents:
            py_compile.compile(source, doraise=True, invalidation_mode=_MODE.UNCHECKED_HASH)
            compiled += 1
        elif library in parents and not cached.exists():
            target = folder / cached.relative_to(cached.anchor)
            py_compile.compile(source, str(target), doraise=True, invalidation_mode=_MODE.TIMESTAMP)
            completed += 1
    print(f"{compiled} modules compiled, {completed} of Python's own")


if __name__ == "__main__":
    main()
