"""Write the pages that are made from the programs: `python -m trainedmodel_devkit.pages ROOT`.

With `--check` it only compares, and ends with 1 if a page is stale. These pages are made here
because they need both programs, and neither program may import the other.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trainedmodel_devkit import apipage, flagpage, podpage


def render() -> dict[str, str]:
    """Return each page by its path below the root of the repository."""
    return {page.PAGE: page.render() for page in (apipage, flagpage, podpage)}


def stale(root: Path) -> list[str]:
    """Return the paths of pages that are not what is on disk."""
    return [
        path
        for path, text in render().items()
        if not (root / path).is_file() or (root / path).read_text() != text
    ]


def main(root: Path, *, check: bool) -> int:
    """Write the pages, or only compare them; return an exit code."""
    if check:
        changed = stale(root)
        for path in changed:
            sys.stderr.write(f"{path} is stale: run `make generate`\n")
        return 1 if changed else 0
    for path, text in render().items():
        (root / path).write_text(text)
    return 0


if __name__ == "__main__":
    arguments = [word for word in sys.argv[1:] if word != "--check"]
    sys.exit(main(Path(arguments[0]), check="--check" in sys.argv))
