"""A stand-in for KServe's agent, as it behaves: a script in the pod, with no library but Python's.

    at start      fetch what the folder of models names, and ask the server once to load each. The
                  server does not listen yet, and the agent does not ask again
    an entry more fetch and load
    an entry less unload, and delete the folder

Arguments: the folder of `models.json`, the model folder, the server's URL, and the address from
which `s3://bucket/key` is fetched as `<address>/bucket/key/<file>`, with a list in `index.json`.
"""

import json
import shutil
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


def main() -> None:
    """Follow the folder of models for ever."""
    config, models = Path(sys.argv[1]) / "models.json", Path(sys.argv[2])
    server, store = sys.argv[3], sys.argv[4]
    known: dict[str, str] = {}
    while True:
        wanted = read(config)
        for name in known.keys() - wanted.keys():
            ask(server, name, "unload")
            shutil.rmtree(models / name, ignore_errors=True)
        for name, uri in wanted.items():
            if known.get(name) != uri:
                fetch(store, uri, models / name)
                ask(server, name, "load")
        known = wanted
        time.sleep(0.2)


def read(config: Path) -> dict[str, str]:
    """Return the models' names and addresses."""
    try:
        entries = json.loads(config.read_text())
    except (OSError, ValueError):
        return {}
    return {one["modelName"]: one["modelSpec"]["storageUri"] for one in entries}


def fetch(store: str, uri: str, folder: Path) -> None:
    """Fetch all files of a model, and leave the mark that the agent leaves."""
    base = f"{store}/{uri.partition('://')[2]}"
    folder.mkdir(parents=True, exist_ok=True)
    with urllib.request.urlopen(f"{base}/index.json", timeout=10) as answer:
        names = json.load(answer)
    for name in names:
        with urllib.request.urlopen(f"{base}/{name}", timeout=10) as answer:
            (folder / name).write_bytes(answer.read())
    (folder / "SUCCESS.0").touch()


def ask(server: str, name: str, verb: str) -> None:
    """Ask the server once; what it says to that changes nothing."""
    url = f"{server}/v2/repository/models/{name}/{verb}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=30):
            print(f"{verb} {name}", flush=True)
    except (urllib.error.URLError, OSError) as error:
        print(f"{verb} {name}: {error}", flush=True)


if __name__ == "__main__":
    main()
