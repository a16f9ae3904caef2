"""Servers with one configuration file: its text, version numbers, the layout of their trees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_contract.entry import Entry
from trainedmodel_puller.core.state import Layout
from trainedmodel_puller.drivers.base import ServerSettings
from trainedmodel_puller.drivers.config_format import ConfigError, Row
from trainedmodel_puller.drivers.model_config import ConfigServer
from trainedmodel_puller.drivers.ovms import OpenVinoModelServer, OvmsConfigText
from trainedmodel_puller.drivers.tfs import TensorFlowServing
from trainedmodel_puller.drivers.tfs_config import TfsConfigText
from trainedmodel_puller.errors import ServerFault

ENTRY = Entry(name="m", storage_uri="s3://b/x", revision="r")

#: What an operator may have written: comments, several styles, fields that are none of ours.
FOREIGN = """\
# models of the search team
model_config_list: {
  config <
    name: 'search'  # theirs
    base_path: "/search/"
    "models"
    model_platform: "tensorflow";
    model_version_policy: { specific { versions: [1, 0x2] versions: 3 } }
    version_labels { key: 'stable', value: 1 }
    logging_config { log_collector_config { type: "a" filename_prefix: "}" } }
  >
  config { name: "latest" base_path: "/latest" }
}
"""


class TestVersions:
    @given(st.text(st.characters(codec="ascii"), min_size=1, max_size=64))
    def test_a_revision_always_has_the_same_number_that_json_can_carry(self, revision: str) -> None:
        folder = TensorFlowServing(
            ServerSettings("http://x", Path("/nowhere"), Path("/nowhere"))
        ).folder_name(revision)
        assert folder.isdecimal()
        assert 1 <= int(folder) < 2**53
        assert int(float(folder)) == int(folder)

    def test_the_number_never_changes_between_releases(self) -> None:
        driver = TensorFlowServing(ServerSettings("http://x", Path("/none"), Path("/none")))
        assert driver.folder_name("r1") == "5605063684550565"
        assert driver.layout is Layout.PER_REVISION


class TestTfsText:
    text = TfsConfigText()

    def test_rows_are_read_in_any_style(self) -> None:
        assert self.text.rows(FOREIGN) == {
            "search": Row("/search/models", (1, 2, 3)),
            "latest": Row("/latest", ()),
        }

    def test_all_but_one_row_stays_byte_by_byte(self) -> None:
        more = self.text.edit(FOREIGN, "m", "/models/m", (5, 6))
        assert more.startswith(FOREIGN.removesuffix("}\n"))
        assert self.text.rows(more)["m"] == Row("/models/m", (5, 6))
        assert self.text.edit(more, "m", "/models/m", ()) == FOREIGN
        changed = self.text.edit(more, "m", "/models/m", (7,))
        assert self.text.edit(changed, "m", "/models/m", (5, 6)) == more

    def test_a_row_in_the_middle_of_a_line_can_go(self) -> None:
        text = 'model_config_list { config { name: "a" base_path: "/a" } }'
        assert self.text.rows(self.text.edit(text, "a", "/a", ())) == {}
        assert set(self.text.rows(self.text.edit(text, "b", "/b", (1,)))) == {"a", "b"}

    def test_a_file_without_models_is_an_empty_list_never_an_empty_file(self) -> None:
        one = self.text.edit("", "a", "/a", (1,))
        assert self.text.edit(one, "a", "/a", ()) == self.text.empty

    @given(
        st.dictionaries(
            st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
            st.tuples(
                st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1),
                st.lists(st.integers(1, 2**53), min_size=1, max_size=3, unique=True),
            ),
            max_size=6,
        ),
        st.randoms(use_true_random=False),
    )
    def test_rows_come_and_go_in_any_order_without_a_trace(
        self, models: dict[str, tuple[str, list[int]]], jitter: object
    ) -> None:
        text = FOREIGN
        for name, (path, versions) in models.items():
            text = self.text.edit(text, f"x{name}", path, versions)
        rows = self.text.rows(text)
        for name, (path, versions) in models.items():
            assert rows[f"x{name}"] == Row(path, tuple(versions))
        names = list(models)
        jitter.shuffle(names)  # type: ignore[attr-defined]
        for name in names:
            text = self.text.edit(text, f"x{name}", "", ())
        assert text == FOREIGN

    @pytest.mark.parametrize(
        "text",
        [
            "model_config_list {",
            "model_config_list }",
            "model_config_list { config { name: 'a' } }",
            "model_config_list { config { name: a base_path: 'b' } }",
            "model_config_list { config { name: 'a' base_path: 'b' } "
            "config { name: 'a' base_path: 'c' } }",
            "model_config_list { konfig { } }",
            "model_config_list { config: [ { name: 'a' base_path: 'b' } ] }",
            "custom_model_config { }",
            "model_config_list { } model_config_list { }",
            "model_config_list { config { name: 'a base_path: 'b' } }",
            "model_config_list { config { name 'a' base_path: 'b' } }",
            "model_config_list { config { name: 'a' base_path: 'b' model_version_policy "
            "{ specific { versions: x } } } }",
            "{}",
            "\x00",
        ],
    )
    def test_what_is_not_understood_is_an_error(self, text: str) -> None:
        with pytest.raises(ConfigError):
            self.text.rows(text)


class TestOvmsText:
    text = OvmsConfigText()

    def test_other_keys_and_rows_are_kept(self) -> None:
        document = {
            "model_config_list": [
                {"config": {"name": "a", "base_path": "/a", "nireq": 4, "shape": "auto"}}
            ],
            "pipeline_config_list": [{"name": "p"}],
        }
        more = self.text.edit(json.dumps(document), "m", "/m", (3, 4))
        assert self.text.rows(more) == {"a": Row("/a", ()), "m": Row("/m", (3, 4))}
        assert json.loads(self.text.edit(more, "m", "/m", ())) == document


@pytest.mark.parametrize("kind", [TensorFlowServing, OpenVinoModelServer])
class TestFiles:
    @pytest.fixture
    def driver(self, kind: type[ConfigServer], tmp_path: Path) -> ConfigServer:
        return kind(ServerSettings("http://x", tmp_path / "models", tmp_path / "models"))

    def tree(self, root: Path, *files: str) -> Path:
        for file in files:
            path = root / "tree" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file)
        return root / "tree"

    def listed(self, tree: Path) -> set[str]:
        return {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}

    def test_a_model_at_the_top_stays_as_it_is(self, driver: ConfigServer, tmp_path: Path) -> None:
        tree = self.tree(tmp_path, "saved_model.pb", "variables/a", "1/notes")
        driver.prepare(tree, ENTRY)
        assert self.listed(tree) == {"saved_model.pb", "variables/a", "1/notes"}

    def test_a_single_numbered_folder_is_lifted_again_and_again(
        self, driver: ConfigServer, tmp_path: Path
    ) -> None:
        tree = self.tree(tmp_path, "00001/saved_model.pb", "00001/variables/a", "README")
        for _ in range(2):
            driver.prepare(tree, ENTRY)
            assert self.listed(tree) == {"saved_model.pb", "variables/a", "README"}
            assert not (tree / "00001").exists()

    def test_p7_a_kill_between_any_two_moves_ends_the_same(
        self, driver: ConfigServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = Path.rename
        left = 0

        def killed(self: Path, target: Path) -> Path:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return real(self, target)

        for steps in range(4):
            root = tmp_path / str(steps)
            tree = self.tree(root, "1/saved_model.pb", "1/model.tflite", "1/variables/a")
            left = steps
            monkeypatch.setattr(Path, "rename", killed)
            with pytest.raises(KeyboardInterrupt):
                driver.prepare(tree, ENTRY)
            monkeypatch.undo()
            driver.prepare(tree, ENTRY)
            assert self.listed(tree) == {"saved_model.pb", "model.tflite", "variables/a"}

    @pytest.mark.parametrize(
        ("files", "words"),
        [
            (["readme.txt"], "found: readme.txt"),
            (["1/saved_model.pb", "2/saved_model.pb"], "found: 1/, 2/"),
            (["1/notes"], "must hold"),
            (["1/saved_model.pb", "1/README", "README"], "README is both at the top"),
        ],
    )
    def test_what_is_no_model_is_refused_with_what_is_there(
        self, driver: ConfigServer, tmp_path: Path, files: list[str], words: str
    ) -> None:
        tree = self.tree(tmp_path, *files)
        with pytest.raises(ServerFault, match=words) as caught:
            driver.prepare(tree, ENTRY)
        assert caught.value.reason == "InvalidLayout"
        assert self.listed(tree) == set(files)


def test_an_intermediate_representation_needs_both_of_its_files(tmp_path: Path) -> None:
    driver = OpenVinoModelServer(ServerSettings("http://x", tmp_path, tmp_path))
    (tmp_path / "model.xml").touch()
    with pytest.raises(ServerFault, match=r"\.xml with its \.bin"):
        driver.prepare(tmp_path, ENTRY)
    (tmp_path / "model.bin").touch()
    driver.prepare(tmp_path, ENTRY)


async def test_a_configuration_of_any_bytes_is_kept_byte_for_byte(tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    before = b"# Gr\xf6\xdfe\r\nmodel_config_list {\r\n}\r\n"
    config.write_bytes(before)
    driver = TensorFlowServing(ServerSettings("http://127.0.0.1:1", tmp_path, tmp_path))
    await driver._ask_for("m", [3])
    assert b"Gr\xf6\xdfe\r\n" in config.read_bytes()
    assert b'"m"' in config.read_bytes()
    await driver._ask_for("m", [])
    assert config.read_bytes() == before
    await driver.close()
