"""TensorFlow Serving's own protos read what is written for it, and mean the same by it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from puller.test_drivers_config_files import FOREIGN
from trainedmodel_devkit.environments import ensure_environment
from trainedmodel_puller.drivers.tfs_config import TfsConfigText

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

TEXT = TfsConfigText()
#: Reads texts, one JSON string a line; says what each means, or why it is none.
READER = """
import json, sys
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2 as config
for line in sys.stdin:
    try:
        read = text_format.Parse(json.loads(line), config.ModelServerConfig())
        rows = [
            [one.name, one.base_path, list(one.model_version_policy.specific.versions)]
            for one in read.model_config_list.config
        ]
        platforms = sorted({one.model_platform for one in read.model_config_list.config})
        print(json.dumps([read.WhichOneof("config"), rows, platforms]))
    except (text_format.ParseError, UnicodeDecodeError) as error:
        print(json.dumps(str(error)))
"""


def read_by_server(*texts: str) -> list[Any]:
    environment = ensure_environment("tfsprotos", expected_s=5, with_dependencies=False)
    done = subprocess.run(
        [environment / "bin" / "python", "-c", READER],
        input="".join(json.dumps(text) + "\n" for text in texts),
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_is_written_is_what_the_server_reads() -> None:
    one = TEXT.edit("", "m", "/models/m", (2**53 - 1,))
    two = TEXT.edit(one, "n", '/a "b" \\c/ü', (1, 2))
    kept = TEXT.edit(FOREIGN, "m", "/models/m", (5, 6))
    gone = TEXT.edit(TEXT.edit(one, "m", "", ()), "never", "", ())
    assert read_by_server(one, two, kept, gone) == [
        ["model_config_list", [["m", "/models/m", [2**53 - 1]]], ["tensorflow"]],
        [
            "model_config_list",
            [["m", "/models/m", [2**53 - 1]], ["n", '/a "b" \\c/ü', [1, 2]]],
            ["tensorflow"],
        ],
        [
            "model_config_list",
            [
                ["search", "/search/models", [1, 2, 3]],
                ["latest", "/latest", []],
                ["m", "/models/m", [5, 6]],
            ],
            ["", "tensorflow"],
        ],
        # an empty list, which unloads everything; an empty file would be no configuration at all
        ["model_config_list", [], []],
    ]


@pytest.mark.parametrize(
    "text",
    [
        FOREIGN,
        TEXT.empty,
        "",
        "model_config_list{config{name:'a'base_path:'b'}}",
        "model_config_list { config { name: 'a' 'b' base_path: \"\\x2fa\\n\\t\\\\\" }; }",
        "model_config_list < config < name: 'a', base_path: 'b' > > # end",
    ],
)
def test_what_an_operator_wrote_is_read_alike(text: str) -> None:
    _, rows, _ = read_by_server(text)[0]
    mine = [[name, row.base_path, list(row.versions)] for name, row in TEXT.rows(text).items()]
    assert mine == rows


@pytest.mark.parametrize(
    "text",
    ["model_config_list {", "}", "{}", "nothing { }", "model_config_list { config { name: a } }"],
)
def test_what_the_server_refuses_is_refused(text: str) -> None:
    assert isinstance(read_by_server(text)[0], str)
    with pytest.raises(ValueError, match=r"."):
        TEXT.rows(text)


def test_the_reader_is_the_servers_own() -> None:
    """A proto that knew no fields would agree to nothing, and one that knew all to everything."""
    good = 'model_config_list { config { name: "a" base_path: "/a" } }'
    bad = 'model_config_list { config { name: "a" base_path: "/a" no_such_field: 1 } }'
    one, other = read_by_server(good, bad)
    assert one[1] == [["a", "/a", []]]
    assert "no_such_field" in other
