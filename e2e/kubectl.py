"""kubectl as users run it: the only way in which this suite talks to a cluster."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from trainedmodel_devkit.waiting import wait_until

Json = dict[str, Any]


class Refused(Exception):
    """kubectl ended with an error; the text is what it said."""


@dataclass(frozen=True)
class Kubectl:
    """One cluster, as one user."""

    program: Path
    kubeconfig: Path | None

    def __call__(self, *args: str, documents: Iterable[Json] = (), timeout_s: float = 120) -> str:
        """Run kubectl and return its output.

        Raises:
            Refused: it ended with an error.
        """
        text = yaml.safe_dump_all(list(documents)) or None
        result = subprocess.run(
            self._command(*args),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        if result.returncode != 0:
            raise Refused(f"kubectl {' '.join(args)}: {result.stderr.strip()}")
        return result.stdout

    def get(self, kind: str, name: str, *args: str) -> Json:
        """Return an object; nothing if there is no such object."""
        text = self("get", kind, name, *args, "--ignore-not-found", "-o", "json")
        return dict(json.loads(text)) if text else {}

    def list_all(self, kind: str, *args: str) -> list[Json]:
        """Return all objects of a kind that the arguments select."""
        return list(json.loads(self("get", kind, *args, "-o", "json"))["items"])

    @contextlib.contextmanager
    def watching(self, kind: str, line: str, *args: str) -> Iterator[Sightings]:
        """Watch objects from one long-lived kubectl; `line` is a JSONPath printed at each event."""
        template = f"jsonpath={line}{{'\\n'}}"
        command = self._command("get", kind, "--watch", "-o", template, *args)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            seen = Sightings()
            reader = threading.Thread(target=seen.read, args=(child,), daemon=True)
            reader.start()
            try:
                yield seen
            finally:
                child.terminate()
                reader.join(10)

    def _command(self, *args: str) -> list[str]:
        own = [] if self.kubeconfig is None else [f"--kubeconfig={self.kubeconfig}"]
        return [str(self.program), *own, *args]


@dataclass
class Sightings:
    """When which line was printed first; lines that were seen before are no news."""

    first: dict[str, float] = field(default_factory=dict)

    def read(self, child: subprocess.Popen[str]) -> None:
        """Take lines as they come until the end."""
        if child.stdout is not None:
            for line in child.stdout:
                self.first.setdefault(line.strip(), time.monotonic())

    def news_after(self, instant: float) -> float:
        """Return when the first new line after an instant came; infinity if none has come."""
        return min((seen for seen in self.first.values() if seen > instant), default=math.inf)

    def wait_for(self, line: str, timeout_s: float) -> float:
        """Return when the line was seen first, on the monotonic clock."""
        wait_until(lambda: line in self.first, timeout_s, what=f"seen {line!r}", every_s=0.005)
        return self.first[line]
