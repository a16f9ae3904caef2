"""`trainedmodel-operator convert`: converts manifests of KServe and ModelMesh.

The command reads files or standard input (YAML or JSON, several documents, lists). It writes the
converted manifests to standard output, and notes and errors to standard error.
`core.conversion.convert` decides the result for each document.

Exit codes: 0 if everything was converted (notes are not failures), 1 if a document could not be
converted or nothing was made, 2 if the input could not be read. With 1, the command still writes
the documents that it converted.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import IO, Any, Final

import click
import yaml
from trainedmodel_contract import names

from trainedmodel_operator.core.conversion.convert import Options, convert_all

UNCONVERTED: Final = 1
UNREADABLE: Final = 2
_SERVICE: Final = re.compile(names.PARENT_NAME_PATTERN)


class Unreadable(click.ClickException):
    """The input is neither YAML nor JSON."""

    exit_code = UNREADABLE


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: a date without quotes is text."""


_Loader.yaml_implicit_resolvers = {
    letter: [one for one in resolvers if one[0] != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@click.command("convert")
@click.argument("files", nargs=-1, type=click.File("r", encoding="utf-8"))
@click.option(
    "--service",
    "services",
    multiple=True,
    metavar="NAME or RUNTIME=NAME",
    help="Service for models that name none, or a name that cannot be a service's name. With "
    "RUNTIME=NAME: service for models of that runtime. Repeatable.",
)
@click.option(
    "--bucket",
    default="",
    help="Bucket for ModelMesh models that name none (default_bucket of its Secret).",
)
def convert_command(files: tuple[IO[str], ...], services: tuple[str, ...], bucket: str) -> None:
    """Turn models of KServe and ModelMesh into TrainedModels.

    FILES are manifests, `-` or none is standard input. Secrets with their stores' credentials
    become credential profiles. Of an InferenceService that is no model it is said what to label.
    Apply what comes out after a look at the notes.
    """
    options = _options(services, bucket)
    found = list(convert_all(read_documents(files or (sys.stdin,)), options))
    documents = [dict(one) for conversion in found for one in conversion.objects]
    faults = [fault for conversion in found for fault in conversion.faults]
    if not documents and not faults:
        faults = [
            "nothing was converted: the input holds no TrainedModel, no Predictor, no "
            "InferenceService of ModelMesh and no Secret of a store"
        ]
    for conversion in found:
        for note in conversion.notes:
            click.echo(f"note: {note}", err=True)
    for fault in faults:
        click.echo(f"error: {fault}", err=True)
    if documents:
        text = yaml.safe_dump_all(
            documents, sort_keys=False, explicit_start=True, allow_unicode=True
        )
        click.echo(text, nl=False)
    if faults:
        raise click.exceptions.Exit(UNCONVERTED)


def read_documents(streams: Iterable[IO[str]]) -> list[Any]:
    """Read all documents of some streams.

    Raises:
        Unreadable: a stream is neither YAML nor JSON.
    """
    documents: list[Any] = []
    for stream in streams:
        name = getattr(stream, "name", "standard input")
        try:
            documents.extend(_documents(stream.read()))
        except RecursionError:
            raise Unreadable(f"{name} cannot be read: it is nested too deeply") from None
        except (yaml.YAMLError, ValueError) as error:  # an UnicodeDecodeError is one
            raise Unreadable(f"{name} cannot be read as YAML: {error}") from error
    return documents


def _documents(text: str) -> list[Any]:
    """Read YAML, or JSON: indented by tabs it is no YAML."""
    if text.lstrip("\ufeff \t\r\n").startswith("{"):
        try:
            return [json.loads(text.lstrip("\ufeff"))]
        except ValueError:
            pass  # several documents, or YAML that begins like JSON
    return list(yaml.load_all(text, Loader=_Loader))


def _options(words: Iterable[str], bucket: str) -> Options:
    """Read `--service`.

    Raises:
        click.BadParameter: what is named cannot be a service.
    """
    service, services = "", {}
    for word in words:
        runtime, mark, name = word.rpartition("=")
        if _SERVICE.fullmatch(name) is None:
            raise click.BadParameter(
                f"{name!r} is not a valid service name: use lower-case letters, digits and '-'",
                param_hint="--service",
            )
        if mark:
            services[runtime] = name
        elif service not in {"", name}:
            raise click.BadParameter(
                f"{service!r} and {name!r} are both set for all models: write RUNTIME=NAME",
                param_hint="--service",
            )
        else:
            service = name
    return Options(service=service, services=services, bucket=bucket)
