"""Writes the files generated from the contract: `python -m trainedmodel_contract.generate ROOT`.

It also writes the chart's copies of other files, because helm reads no file outside of a chart.
They are copies, because chart repositories leave links out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trainedmodel_contract.crd import render_crds
from trainedmodel_contract.reasons import render_page

_CHART_FILES = "deploy/chart/files"
_COPIED = ("deploy/alerts", "deploy/dashboards")


def render(root: Path) -> dict[str, str]:
    """Return each generated file by its path below the root of the repository."""
    crds = {f"crds/{name}": text for name, text in render_crds().items()}
    copies = {f"{_CHART_FILES}/{path}": text for path, text in crds.items()}
    for folder in _COPIED:
        for path in sorted((root / folder).glob("*.*")):
            copies[f"{_CHART_FILES}/{path.parent.name}/{path.name}"] = path.read_text()
    return {**crds, **copies, "docs/reasons.md": render_page()}


def stale(root: Path) -> list[str]:
    """Return the paths of generated files that differ from the files on disk."""
    return [
        path
        for path, text in render(root).items()
        if not (root / path).is_file() or (root / path).read_text() != text
    ]


def main(root: Path, *, check: bool) -> int:
    """Write the files, or only compare them; return an exit code."""
    if check:
        changed = stale(root)
        for path in changed:
            sys.stderr.write(f"{path} is stale: run `make generate`\n")
        return 1 if changed else 0
    for path, text in render(root).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return 0


if __name__ == "__main__":
    arguments = [word for word in sys.argv[1:] if word != "--check"]
    sys.exit(main(Path(arguments[0]), check="--check" in sys.argv))
