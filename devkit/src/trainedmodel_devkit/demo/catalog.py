"""The models of the demo: where each comes from, what it is asked, and what it must answer.

The manifests are those of `deploy/samples`, so what a user reads there is what runs here.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainedmodel_devkit.environments import checkout
from trainedmodel_devkit.models import (
    IRIS_SETOSA,
    WINE_FIRST,
    write_iris,
    write_scale_triton,
    write_wine,
)
from trainedmodel_devkit.stores import S3Store

BUCKET = "models"
NAMESPACE = "demo"
TABULAR = "tabular"
VISION = "vision"


@dataclass(frozen=True)
class Exhibit:
    """A model, a question to it, and the right answer of its first version."""

    name: str
    service: str
    inputs: Sequence[float] | Sequence[Sequence[float]]
    question: str
    answer: Sequence[float]

    @property
    def sample(self) -> str:
        """The manifest's path in the checkout."""
        return f"deploy/samples/{self.name}.yaml"


IRIS = Exhibit("iris", TABULAR, [IRIS_SETOSA], "a flower (5.1, 3.5, 1.4, 0.2)", [0])
IRIS_UPDATED_ANSWER = [1]
IRIS_UPDATED_URI = f"s3://{BUCKET}/iris/v2"
IRIS_FIRST_URI = f"s3://{BUCKET}/iris/v1"

WINE = Exhibit("wine", TABULAR, [WINE_FIRST], "a wine (14.23, 1.71, 2.43, ...)", [0])

BRIGHTNESS = Exhibit("brightness", VISION, [10, 20, 60], "three pixels (10, 20, 60)", [15, 30, 90])

BROKEN_NAME = "broken"
BROKEN_SAMPLE = "deploy/samples/broken.yaml"

EXHIBITS = (IRIS, WINE, BRIGHTNESS)


def sample_file(sample: str) -> str:
    """Return where a sample manifest is on this machine."""
    return str(checkout() / sample)


def upload_models(store: S3Store) -> int:
    """Put the files of all versions into the store; return how many versions there are."""
    with tempfile.TemporaryDirectory(prefix="trainedmodel-models-") as name:
        folder = Path(name)
        trees = {
            "iris/v1": write_iris(folder / "iris-1", 1),
            "iris/v2": write_iris(folder / "iris-2", 2),
            "wine/v1": write_wine(folder / "wine-1", 1),
            "brightness/v1": write_scale_triton(folder / "brightness-1", 1.5),
        }
        for prefix, tree in trees.items():
            store.put_tree(BUCKET, prefix, tree)
    return len(trees)
