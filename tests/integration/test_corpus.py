"""The real API server accepts and refuses what the pydantic models do, and names the same field."""

from __future__ import annotations

import json
import random
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support.contract_corpus import ACCEPTED, REFUSED, Case
from trainedmodel_contract import names
from trainedmodel_contract.trainedmodel import PLURAL, SpecError, parse_trained_model
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.errors import CommandFailed

pytestmark = pytest.mark.integration

#: What documents are mutated with: each is at the border of some rule.
PIECES = [
    *("a", "Z", "0", "-", "_", ".", "..", "/", "//", "./", "../", ":", "://", "@", "?", "#", "%"),
    *(" ", "\n", "\t", "\x00", "\x1f", "\x7f", "\x85", "\xa0", "\u200b", "\u2028", "\u3000"),
    *("é", "版", "\ufeff", "s3", "abfs://", "user:pass@", "Gi", "E", "m", "e9", "+", "-1", "1.5"),
]
STARTS: dict[str, list[str]] = {
    "storageUri": ["s3://bucket/path", "abfss://box@account.example/m", "https://h:1/a?b=c/../d"],
    "name": ["iris", "Iris_v4.1-b"],
    "memory": ["256Mi", "1.5G", "1e9", "500m"],
    "digest": ["sha256:" + "a" * 64],
    "credentials": ["team-a"],
    "framework": ["sklearn"],
}


#: More were tried by hand (20,000): each costs 8 ms.
COUNT = 600


def create(control_plane: ControlPlane, case: Case) -> str:
    text = json.dumps(case.document())
    return control_plane.kubectl("create", "--dry-run=server", "-f", "-", input=text)


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.name)
def test_the_api_server_accepts(control_plane: ControlPlane, case: Case) -> None:
    assert "created" in create(control_plane, case)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_the_api_server_refuses_and_names_the_field(
    control_plane: ControlPlane, case: Case
) -> None:
    with pytest.raises(CommandFailed, match=case.field):
        create(control_plane, case)


def mutated(rng: random.Random, text: str) -> str:
    """Change a text in one to three places."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(text))
        gone = rng.choice([0, 0, 1, 3])
        text = text[:at] + rng.choice(PIECES) + text[at + gone :]
    return text


def mutants(count: int) -> Iterator[Case]:
    rng = random.Random(5)
    fields = list(STARTS)
    for number in range(count):
        field = fields[number % len(fields)] if number % 2 else "storageUri"
        text = mutated(rng, rng.choice(STARTS[field]))
        yield Case(f"{field}={text!r}", {field: text})


def is_read(document: dict[str, Any]) -> bool:
    try:
        parse_trained_model(document)
    except SpecError:
        return False
    return True


class Judge:
    """Asks the API server for its verdict, without the half second that kubectl takes."""

    def __init__(self, control_plane: ControlPlane) -> None:
        token = yaml.safe_load(control_plane.kubeconfig.read_text())["users"][0]["user"]["token"]
        self._url = (
            f"{control_plane.server}/apis/{names.API_VERSION}/namespaces/default/{PLURAL}"
            "?dryRun=All"
        )
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        self._context = ssl.create_default_context(cafile=str(control_plane.ca_file))

    def accepts(self, document: dict[str, Any]) -> bool:
        body = json.dumps(document).encode()
        request = urllib.request.Request(self._url, body, self._headers, method="POST")
        try:
            urllib.request.urlopen(request, context=self._context, timeout=10).close()
        except urllib.error.HTTPError as error:
            if error.code not in {400, 422}:
                raise
            return False
        return True


@pytest.mark.timeout(60)
def test_mutated_documents_are_judged_alike(control_plane: ControlPlane) -> None:
    judge = Judge(control_plane)
    judged = {
        one.name: (judge.accepts(one.document()), is_read(one.document())) for one in mutants(COUNT)
    }
    assert {name: pair for name, pair in judged.items() if pair[0] != pair[1]} == {}
    assert 60 < sum(accepted for accepted, _ in judged.values()) < 540, "both verdicts are tried"
