"""Which layouts are refused before the first byte, and what a refusal says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_contract.modelreport import MAX_MESSAGE
from trainedmodel_puller.core.layouts import (
    choose_artefact,
    refuse_adapter,
    refuse_gguf,
    refuse_manifest,
    refuse_mlserver,
    refuse_triton,
    refuse_versioned,
)
from trainedmodel_puller.core.shape import Shape, named

paths = st.lists(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    *("1", "2", "config.pbtxt", "model.bst", "MAR-INF", "MANIFEST.json", "x"),
                    *("model.gguf", "a-00001-of-00002.gguf", "adapter_config.json", "handler.py"),
                    *("model-settings.json", "saved_model.pb", "model.onnx", "requirements.txt"),
                ]
            ),
            st.text(min_size=1, max_size=80).filter(lambda name: "/" not in name),
        ),
        min_size=1,
        max_size=4,
    ).map("/".join),
    max_size=30,
)


def is_model(name: str, _: frozenset[str]) -> bool:
    return name == "saved_model.pb"


def refusals(shape: Shape) -> list[str | None]:
    return [
        refuse_triton(shape),
        *(refuse_mlserver(shape, framework) for framework in ("", "sklearn", "xgboost", "mlflow")),
        refuse_manifest(shape, {}),
        refuse_gguf(shape),
        refuse_adapter(shape, "vllm"),
        refuse_versioned(shape, is_model, "saved_model.pb"),
    ]


@given(paths)
def test_a_refusal_is_short_and_safe_to_be_shown_whatever_the_names_are(names: list[str]) -> None:
    for why in refusals(Shape(names)):
        assert why is None or (why.isascii() and why.isprintable() and len(why) <= MAX_MESSAGE)


@given(paths, st.text(min_size=1, max_size=20).filter(lambda name: "/" not in name))
def test_each_refusal_says_what_was_found(names: list[str], one: str) -> None:
    shape = Shape([*names[:3], one])
    for why in refusals(shape):
        assert why is None or "found: " in why or "at the top of the source" in why


@given(paths)
def test_a_listing_and_its_files_deeper_down_are_told_alike(names: list[str]) -> None:
    """What lies below the second level tells nothing."""
    deeper = [f"{name}/a/b/c" for name in names if name.count("/") == 2]
    assert refusals(Shape(names)) == refusals(Shape([*names, *deeper]))


@pytest.mark.parametrize(
    ("framework", "files", "chosen"),
    [
        ("xgboost", ("model.json", "metadata.json"), "model.json"),
        ("xgboost", ("model.json", "feature_names.json"), "model.json"),
        ("xgboost", ("xg.ubj",), "xg.ubj"),
        ("xgboost", ("xg.ubj", "metadata.json"), "xg.ubj"),
        ("xgboost", ("booster.json", "metadata.json"), "booster.json"),
        ("xgboost", ("model.bst", "model.json"), "model.bst"),  # as the runtime does
        ("xgboost", ("model.bst", "config.json"), "model.bst"),
        ("xgboost", ("a.json", "b.json"), None),
        ("lightgbm", ("model.txt", "requirements.txt"), "model.txt"),
        ("lightgbm", ("model.bst", "requirements.txt"), "model.bst"),
        ("lightgbm", ("model.bst", "README.txt", "LICENSE.txt"), "model.bst"),
        ("lightgbm", ("iris.bst", "requirements.txt"), "iris.bst"),
        ("lightgbm", ("requirements.txt",), None),
        ("sklearn", ("model.joblib", "scaler.joblib"), "model.joblib"),
        ("sklearn", ("MLmodel", "conda.yaml", "requirements.txt", "model.pkl"), "model.pkl"),
        ("sklearn", ("iris.joblib", "scaler.joblib"), None),
        ("sklearn", ("model.joblib", "model.pkl"), "model.joblib"),
        ("catboost", ("model.cbm", "metadata.json"), "model.cbm"),
        ("catboost", ("model.bin",), "model.bin"),
        ("mlflow", ("MLmodel", "model.pkl"), "."),
    ],
)
def test_the_file_that_the_runtime_would_choose_is_chosen(
    framework: str, files: tuple[str, ...], chosen: str | None
) -> None:
    assert choose_artefact(frozenset(files), framework) == chosen


@given(
    st.sampled_from(["sklearn", "xgboost", "lightgbm"]),
    st.frozensets(st.text(min_size=1, max_size=12)),
)
def test_nothing_that_lies_beside_a_well_known_name_has_a_say(
    framework: str, beside: frozenset[str]
) -> None:
    first = {"sklearn": "model.joblib", "xgboost": "model.bst", "lightgbm": "model.bst"}[framework]
    assert choose_artefact(beside | {first}, framework) == first


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["model.onnx", "config.pbtxt"], "found: config.pbtxt, model.onnx"),
        (["v1/model.py", "config.pbtxt"], "found: config.pbtxt, v1/"),
        (
            ["bert/config.pbtxt", "bert/1/model.py"],
            "found: bert/; to serve bert, add it to the URI",
        ),
        (["text.onnx"], "found: text.onnx"),
        (["001/model.py", "config.pbtxt"], "found: config.pbtxt, 001/"),
        ([], "found: nothing"),
    ],
)
def test_triton_is_told_from_the_listing(names: list[str], words: str) -> None:
    why = refuse_triton(Shape(names))
    assert why is not None
    assert words in why
    assert "<name>/<number>/" in why


@pytest.mark.parametrize(
    "names",
    [["1/model.py"], ["config.pbtxt", "1/"], ["config.pbtxt"], ["config.pbtxt", "labels.txt"]],
)
def test_triton_is_not_refused_what_may_be_served(names: list[str]) -> None:
    assert refuse_triton(Shape(names)) is None


def test_a_long_list_of_names_is_cut() -> None:
    assert named((f"n{number}" for number in range(20)), 40).endswith("n6 and 13 more")
    for one in ("x" * 1000, "\u4e2d" * 60):
        assert len(named([one] * 20)) < 150
    assert named(["a\nb", "\udcff", ""]) == "'a\\nb', '\\udcff', ''"
