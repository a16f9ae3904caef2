"""Flags and the settings that they are made into."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from trainedmodel_puller.cli.command import make_settings
from trainedmodel_puller.cli.flags import with_flags
from trainedmodel_puller.settings import PodIdentity, Settings
from trainedmodel_puller.storage.settings import StorageSettings

#: Flags that the settings have in another form, or not at all.
OTHERS = {
    "log_format",
    "log_level",
    "pod_name",
    "pod_namespace",
    "pod_uid",
    "service",
    "service_account_dir",
    "storage_backends",
}
#: Fields that no flag sets by itself.
WITHOUT_FLAG = {
    "answer_timeout_s",
    "connect_timeout_s",
    "denied_networks",
    "fsspec_schemes",
    "identity",
    "instance_metadata",
    "storage",
}


@click.command()
@with_flags
def command(**flags: Any) -> Settings:
    return make_settings(flags)


def parse(*arguments: str) -> Settings:
    made = command.main(arguments, standalone_mode=False)
    assert isinstance(made, Settings)
    return made


def test_each_flag_has_a_field_and_each_field_a_flag() -> None:
    flags = {str(one.name) for one in command.params if one.expose_value}
    known = {one.name for kind in (Settings, StorageSettings) for one in fields(kind)}
    assert flags - known == OTHERS
    assert known - flags == WITHOUT_FLAG


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (("--period", "7"), "period_s", 7.0),
        (("--load-timeout", "11"), "load_timeout_s", 11.0),
        (("--max-unpacked", "3Gi"), "max_unpacked_bytes", 3 * 2**30),
        (("--no-watch",), "has_watch", False),
        (("--model-dir", "/m"), "state_dir", Path("/state")),
        (("--model-dir", "/m", "--state-dir", "/s"), "state_dir", Path("/s")),
    ],
)
def test_the_value_of_a_flag_is_in_its_field(
    arguments: tuple[str, ...], field: str, value: object
) -> None:
    assert getattr(parse(*arguments), field) == value


def test_flags_of_stores_are_in_the_settings_of_the_storage() -> None:
    made = parse("--stall-timeout", "9", "--credentials-dir", "/c", "--file-root", "/f")
    assert made.stall_timeout_s == made.storage.answer_timeout_s == 9.0
    assert made.storage.profiles_dir == Path("/c")
    assert made.storage.file_roots == (Path("/f"),)


def test_a_pod_has_an_identity_only_with_a_service() -> None:
    pod = ("--pod-name", "p", "--pod-namespace", "n", "--pod-uid", "u")
    assert parse(*pod).identity is None
    made = parse(*pod, "--service", "s", "--service-account-dir", "/a")
    assert made.identity == PodIdentity("p", "u", "n", "s", Path("/a"))
