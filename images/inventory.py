"""Write what an image contains: a CycloneDX bill of materials and a frozen list.

Both come from what is really installed, not from what was asked for: the Python packages of the
environment and the Debian packages of the base. Equal content gives equal bytes: no time, no
random serial number.
"""

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_DPKG = Path("/var/lib/dpkg/status")


def main() -> None:
    """Write `sbom.cdx.json` and `requirements.frozen.txt` into a folder."""
    subject, folder = sys.argv[1], Path(sys.argv[2])
    packages = sorted(metadata.distributions(), key=_name)
    folder.mkdir(parents=True, exist_ok=True)
    frozen = "".join(f"{_name(one)}=={one.version}\n" for one in packages)
    (folder / "requirements.frozen.txt").write_text(frozen)
    components = [_python(one) for one in packages] + _debian()
    version = metadata.version(subject)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": subject, "version": version}},
        "components": components,
    }
    (folder / "sbom.cdx.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    print(f"{len(packages)} Python and {len(components) - len(packages)} Debian packages listed")


def _name(package: metadata.Distribution) -> str:
    return package.metadata["Name"].lower().replace("_", "-")


def _python(package: metadata.Distribution) -> dict[str, Any]:
    name = _name(package)
    component: dict[str, Any] = {
        "type": "library",
        "name": name,
        "version": package.version,
        "purl": f"pkg:pypi/{name}@{package.version}",
    }
    told = package.metadata.json
    words = str(told.get("license_expression") or told.get("license") or "")
    # Some packages put the whole text of their licence there.
    if words and "\n" not in words and len(words) < 100:
        component["licenses"] = [{"license": {"name": words}}]
    return component


def _debian() -> list[dict[str, Any]]:
    if not _DPKG.exists():
        return []
    found = []
    for block in _DPKG.read_text(errors="replace").split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != " "
        )
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{version}?arch={fields['Architecture']}"
            found.append({"type": "library", "name": name, "version": version, "purl": purl})
    return sorted(found, key=lambda one: str(one["name"]))


if __name__ == "__main__":
    main()
