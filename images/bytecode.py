"""Compile what a program imports, and nothing else: half the size of compiling all libraries.

The root file system is read-only in a pod, so what is not compiled here is compiled again at each
start. The files are valid whatever time stamps the image builder gives to the sources.
"""

import importlib
import pkgutil
import py_compile
import sys
import sysconfig
from pathlib import Path


def main() -> None:
    """Import what is named, of our packages every module, and compile all that came with it."""
    for name in sys.argv[1:]:
        package = importlib.import_module(name)
        if name.startswith("trainedmodel_"):
            for found in pkgutil.walk_packages(package.__path__, f"{name}."):
                importlib.import_module(found.name)
    site = Path(sysconfig.get_path("purelib"))
    compiled = 0
    for module in list(sys.modules.values()):
        source = getattr(module, "__file__", None)
        if source and source.endswith(".py") and site in Path(source).parents:
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(source, doraise=True, invalidation_mode=mode)
            compiled += 1
    print(f"{compiled} modules compiled")


if __name__ == "__main__":
    main()
