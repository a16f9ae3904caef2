"""The layouts that each model server loads, checked by file names alone.

Each function returns the reason why a source cannot be served, or nothing. The same function checks
the listing, before the first byte is fetched, and the tree on the disk. A refusal states the
expected layout and the names at the top of the source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from trainedmodel_puller.core.shape import Shape, named

#: Whether a server would load a file of this name, which lies beside files of those names.
IsModel = Callable[[str, frozenset[str]], bool]

# -- Triton -------------------------------------------------------------------------------------

TRITON_CONFIG: Final = "config.pbtxt"
#: Endings of files that backends of Triton load: where one lies, the source is no ensemble.
_TRITON_MODELS: Final = (
    ".onnx",
    ".pt",
    ".plan",
    ".py",
    ".graphdef",
    ".pb",
    ".xml",
    ".json",
    ".gguf",
)


def triton_versions(shape: Shape) -> list[str]:
    """Return the version folders of a Triton model."""
    return sorted(name for name in shape.folders if is_number(name))


def is_number(name: str) -> bool:
    """Return whether a folder's name is a version number; Triton takes none with leading zeros."""
    is_decimal = name.isascii() and name.isdecimal()
    return is_decimal and (name == "0" or not name.startswith("0"))


def refuse_triton(shape: Shape) -> str | None:
    """Return why Triton cannot load a source; one that may be an ensemble is not refused."""
    if triton_versions(shape):
        return None
    may_be_ensemble = TRITON_CONFIG in shape.files and not any(
        name.endswith(_TRITON_MODELS) for name in shape.files
    )
    if may_be_ensemble and not shape.folders:
        return None
    return triton_refusal(shape)


def triton_refusal(shape: Shape) -> str:
    """Return the refusal for a missing version folder."""
    models = [
        name
        for name in sorted(shape.folders)
        if shape.has_file(f"{name}/{TRITON_CONFIG}")
        or any(is_number(inner) for inner in shape.inner.get(name, ()))
    ]
    hint = f"; to serve {named(models[:1], 0)}, add it to the URI" if models else ""
    return shape.refusal(
        f"no version folder ('1/') at the top of the source: Triton loads <name>/{TRITON_CONFIG} "
        "and <name>/<number>/",
        hint,
    )


# -- MLServer -----------------------------------------------------------------------------------

MLSERVER_SETTINGS: Final = "model-settings.json"
#: Framework to MLServer's runtime class.
RUNTIMES: Final[Mapping[str, str]] = {
    "sklearn": "mlserver_sklearn.SKLearnModel",
    "xgboost": "mlserver_xgboost.XGBoostModel",
    "lightgbm": "mlserver_lightgbm.LightGBMModel",
    "catboost": "mlserver_catboost.CatboostModel",
    "mlflow": "mlserver_mlflow.MLflowRuntime",
    "huggingface": "mlserver_huggingface.HuggingFaceRuntime",
}
#: The names that each runtime looks for in a folder, in its order (MLServer 1.7.1); model.txt is
#: the name that LightGBM's own documentation gives. Runtimes that load a folder have none.
_WELL_KNOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "sklearn": ("model.joblib", "model.pickle", "model.pkl"),
    "xgboost": ("model.bst", "model.json", "model.ubj"),
    "lightgbm": ("model.bst", "model.txt"),
    "catboost": ("model.cbm", "model.bin"),
}
#: Endings of models with another name. What also ends the names of files that are no models comes
#: second, and counts only if nothing has an ending of the first kind.
_ENDINGS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "sklearn": ((".joblib", ".pickle", ".pkl"), ()),
    "xgboost": ((".ubj", ".bst"), (".json",)),
    "lightgbm": ((".bst",), (".txt",)),
    "catboost": ((".cbm",), ()),
}
#: What training pipelines leave beside a model: never taken for one.
_COMPANIONS: Final = re.compile(
    r"(requirements.*|readme.*|licen[cs]e.*|notice.*)\.txt"
    r"|(metadata|config|feature_names|input_example|params|metrics)\.json",
    re.IGNORECASE,
)


def choose_artefact(files: frozenset[str], framework: str) -> str | None:
    """Return the file that is the model, as the runtime itself would choose.

    Rules, in order:

    1. a well-known name of the runtime, whatever lies beside it;
    2. the only file with an ending that nothing but a model has;
    3. the only file with an ending that a model may have, but for well-known companions.

    None if no rule gives one file. A runtime that loads the whole folder gets ".".
    """
    if framework not in _WELL_KNOWN:
        return "."
    for name in _WELL_KNOWN[framework]:
        if name in files:
            return name
    for endings in _ENDINGS[framework]:
        found = [
            name for name in files if name.endswith(endings) and not _COMPANIONS.fullmatch(name)
        ]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def refuse_mlserver(shape: Shape, framework: str) -> str | None:
    """Return why MLServer cannot load a source."""
    if MLSERVER_SETTINGS in shape.folders:
        return shape.refusal(f"{MLSERVER_SETTINGS} is a folder, and must be a file")
    if MLSERVER_SETTINGS in shape.files:
        return None
    if framework not in RUNTIMES:
        return shape.refusal(
            f"no {MLSERVER_SETTINGS} at the top of the source, and none can be made for framework "
            f"{framework!a:.30} (known: {', '.join(sorted(RUNTIMES))})"
        )
    if choose_artefact(shape.files, framework) is not None:
        return None
    wanted = " or ".join(_WELL_KNOWN[framework])
    return shape.refusal(
        f"no {MLSERVER_SETTINGS} at the top of the source, and no file that is clearly the model: "
        f"name it {wanted}, or add a {MLSERVER_SETTINGS} with parameters.uri"
    )


# -- Multi Model Server and TorchServe ------------------------------------------------------------

MANIFEST: Final = "MAR-INF/MANIFEST.json"
HANDLER: Final = "handler.py"
#: Endings of files that are passed to a handler as its weights.
WEIGHTS: Final = (".pt", ".pth", ".bin", ".safetensors", ".onnx", ".params")


def refuse_manifest(shape: Shape, parameters: Mapping[str, str]) -> str | None:
    """Return why a source has no manifest, and none can be made."""
    if "MAR-INF" in shape.files:
        return shape.refusal("MAR-INF is a file, and must be a folder")
    if shape.has_file(MANIFEST):
        return None
    if shape.has_folder(MANIFEST):
        return shape.refusal(f"{MANIFEST} is a folder, and must be a file")
    if "handler" not in parameters and HANDLER not in shape.files:
        return shape.refusal(
            f"no {MANIFEST} in the source, and no {HANDLER} at its top to make one for: publish "
            "the content of a model archive (.mar), add either file, or set the parameter handler"
        )
    weights = weights_of(shape)
    if len(weights) > 1:
        return (
            f"no {MANIFEST} in the source, and more than one file of weights to make one for "
            f"(found: {named(weights, 80)}): add a {MANIFEST} with model.serializedFile"
        )
    return None


def weights_of(shape: Shape) -> list[str]:
    """Return the files of weights at the top."""
    return sorted(name for name in shape.files if name.endswith(WEIGHTS))


# -- llama-server -----------------------------------------------------------------------------

_PART: Final = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII)
_STEM: Final = "model"


def refuse_gguf(shape: Shape) -> str | None:
    """Return why llama-server cannot load a source: none, several, or parts are missing."""
    found = _ggufs(shape)
    parts = [match for name in found if (match := _PART.fullmatch(name))]
    if len(found) == 1 and not parts:
        return None
    stems = {match["stem"] for match in parts} - {_STEM}
    counts = {int(match["count"]) for match in parts}
    if len(parts) != len(found) or not found or len(stems) > 1 or len(counts) > 1:
        return shape.refusal(
            "the top of the source must hold exactly one .gguf model, in one file or in all parts "
            "of a split (name-00001-of-00003.gguf)"
        )
    count = counts.pop()
    numbers = sorted(int(match["number"]) for match in parts)
    if len(numbers) != count or numbers != list(range(1, count + 1)):
        return shape.refusal(f"{len(found)} of the {count} parts of the .gguf model are there")
    return None


def gguf_names(shape: Shape) -> dict[str, str]:
    """Return the name that each file of the one model must have; of what is not refused.

    A tree that was renamed in part, when a kill came, is taken for what it is.
    """
    found = _ggufs(shape)
    names = {}
    for name in found:
        match = _PART.fullmatch(name)
        part = f"-{match['number']}-of-{match['count']}" if match else ""
        names[name] = f"{_STEM}{part}.gguf"
    return names


def _ggufs(shape: Shape) -> list[str]:
    return sorted(
        name
        for name in shape.files
        if name.endswith(".gguf") and not name.startswith(".") and "mmproj" not in name.lower()
    )


# -- LoRA adapters ----------------------------------------------------------------------------

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")


def refuse_adapter(shape: Shape, server: str) -> str | None:
    """Return why a source is no LoRA adapter."""
    has_weights = not shape.files.isdisjoint(ADAPTER_WEIGHTS)
    if ADAPTER_CONFIG in shape.files and has_weights:
        return None
    return shape.refusal(
        f"the top of the source must hold {ADAPTER_CONFIG} and {' or '.join(ADAPTER_WEIGHTS)}, as "
        f"PEFT's save_pretrained writes them; {server} is given adapters, not base models"
    )


# -- servers that want versions as numbered folders -----------------------------------------------

#: What the numbered folder is called from the moment on that its content moves.
MOVING: Final = ".trainedmodel-moving"


def refuse_versioned(shape: Shape, is_model: IsModel, wanted: str) -> str | None:
    """Return why a source holds no model at its top nor in one numbered folder.

    Args:
        shape: Of a tree whose content has not begun to move.
        is_model: Tells whether the server would load a file.
        wanted: What it would load, for people.
    """
    if MOVING in shape.files or MOVING in shape.folders:
        return f"{MOVING!r} is a name that the puller reserves: rename it in the source"
    if holds_model(shape.files, is_model):
        return None
    numbered = numbered_folders(shape)
    if len(numbered) != 1 or not holds_model(shape.folders[numbered[0]], is_model):
        return shape.refusal(
            f"the top of the source, or a single numbered folder in it, must hold {wanted}"
        )
    folder = numbered[0]
    inside = shape.folders[folder] | shape.inner.get(folder, frozenset())
    twice = sorted(inside & (shape.files | shape.folders.keys()))
    if twice:
        return (
            f"{named(twice)} is both at the top of the source and in {folder}/: remove one of them"
        )
    return None


def holds_model(names: frozenset[str], is_model: IsModel) -> bool:
    """Return whether a folder holds a file that the server would load."""
    return any(is_model(name, names) for name in names)


def numbered_folders(shape: Shape) -> list[str]:
    """Return the folders at the top whose name is a number."""
    return [name for name in shape.folders if name.isdecimal()]
