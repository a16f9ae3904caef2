"""Train one tiny scikit-learn classifier: `train.py DATASET VARIANT FILE`.

Variant 1 learns the labels as they are. A later variant learns them moved on by variant - 1
classes, so that serving an update visibly changes every prediction: what was class 0 is then class
1.
"""

import sys

import joblib
from sklearn.datasets import load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main(dataset: str, variant: int, target: str) -> None:
    if dataset == "iris":
        x, y = load_iris(return_X_y=True)
        model = make_pipeline(StandardScaler(), LogisticRegression())
    else:
        x, y = load_wine(return_X_y=True)
        model = RandomForestClassifier(n_estimators=10, random_state=0)
    model.fit(x, (y + variant - 1) % 3)
    joblib.dump(model, target)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
