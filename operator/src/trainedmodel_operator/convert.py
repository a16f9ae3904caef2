"""`trainedmodel-operator convert`: KServe's manifests in, ours out.

Reads files or standard input, writes to standard output what is to be applied, and to standard
error what to know about it. What comes of each document is decided in `core.convert`.

Ends with 0 if everything was converted (notes are no failure), 1 if a document could not be, 2 if
the input could not be read at all. With 1, what could be converted is written all the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import IO, Any, Final

import click
import yaml

from trainedmodel_operator.core.convert import Conversion, Options, convert

UNCONVERTED: Final = 1
UNREADABLE: Final = 2


class Unreadable(click.ClickException):
    """The input is no YAML."""

    exit_code = UNREADABLE


@click.command("convert")
@click.argument("files", nargs=-1, type=click.File("r", encoding="utf-8"))
@click.option(
    "--service",
    default="",
    help="Service for ModelMesh models that name no runtime.",
)
@click.option(
    "--bucket",
    default="",
    help="Bucket for ModelMesh models that name none (default_bucket of its Secret).",
)
def convert_command(files: tuple[IO[str], ...], service: str, bucket: str) -> None:
    """Turn KServe's TrainedModels and ModelMesh's models into TrainedModels of ours.

    FILES are manifests, `-` or none is standard input. Of an InferenceService it is said what to
    label. Apply what comes out after a look at the notes.
    """
    options = Options(service=service, bucket=bucket)
    found = convert_streams(files or (sys.stdin,), options)
    documents = [dict(one) for conversion in found for one in conversion.objects]
    for conversion in found:
        for note in conversion.notes:
            click.echo(f"note: {note}", err=True)
        for fault in conversion.faults:
            click.echo(f"error: {fault}", err=True)
    if documents:
        text = yaml.safe_dump_all(documents, sort_keys=False, explicit_start=True)
        click.echo(text, nl=False)
    if any(conversion.faults for conversion in found):
        raise click.exceptions.Exit(UNCONVERTED)


def convert_streams(streams: Iterable[IO[str]], options: Options) -> list[Conversion]:
    """Convert all documents of some streams.

    Raises:
        Unreadable: a stream is no YAML.
    """
    found: list[Conversion] = []
    for stream in streams:
        try:
            documents: list[Any] = list(yaml.safe_load_all(stream))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            name = getattr(stream, "name", "standard input")
            raise Unreadable(f"{name} cannot be read as YAML: {error}") from error
        for document in documents:
            found.extend(convert(document, options))
    return found
