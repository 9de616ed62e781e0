from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

from imgrec.runs.environment import describe_environment
from imgrec.runs.folder import RunFolder, create_run_folder
from imgrec.runs.metrics_csv import MetricsLog
from imgrec.runs.predictions import Predictions, write_predictions
from imgrec.runs.summary import update_summary, write_json

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CONFIG = (
    "seed_everything: 3\nmodel:\n  class_path: imgrec.tasks.ClassificationTask\n  init_args:\n    loss: cross_entropy\n"
)


def digit_images(ids: list[str]) -> list[NDArray[np.uint8]]:
    """Return images of the digits by ids such as ``digit/17``."""
    images = load_digits().images
    return [(images[int(name.split("/")[1])] * 15.9).astype(np.uint8) for name in ids]


def _log_loss(logits: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]).mean())


def make_run(root: Path, epochs: int = 12) -> Path:
    """Create the run folder of a linear classifier that is trained on the digits."""
    data, targets = load_digits(return_X_y=True)
    data, targets = data / 16, targets.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(targets))
    train, val, test = order[:1197], order[1197:1437], order[1437:]
    folder = create_run_folder(root, "digits/linear", "seed-3")
    (folder / "config.yaml").write_text(CONFIG)
    facts = describe_environment(command=["imgrec", "fit", "--config", "linear.yaml"], seed=3, fingerprint="4f1c02ab")
    write_json(folder / "environment.json", facts | {"experiment": "digits/linear"})
    model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01, random_state=0)
    best, best_epoch = -1.0, 0
    with MetricsLog(folder / "metrics.csv") as log, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in range(epochs):
            for step in range(4):
                model.partial_fit(data[train[step::4]], targets[train[step::4]], classes=range(10))
                at = 4 * epoch + step
                log.append(at, epoch, {"lr-SGD": 0.01 * (1 - at / (4 * epochs))})
            scores = {}
            for name, part in (("train", train), ("val", val)):
                logits = model.decision_function(data[part])
                scores[f"{name}/loss"] = _log_loss(logits, targets[part])
                scores[f"{name}/acc"] = float((logits.argmax(axis=1) == targets[part]).mean())
            log.append(at, epoch, scores)
            if scores["val/acc"] > best:
                best, best_epoch = scores["val/acc"], epoch
    for split, part in (("val", val), ("test", test)):
        said = Predictions([f"digit/{i}" for i in part], targets[part], model.decision_function(data[part]), CLASSES)
        write_predictions(folder / "predictions" / f"{split}.parquet", said)
        update_summary(folder, {split: {"acc": said.accuracy}})
    update_summary(
        folder,
        {
            "status": "finished",
            "best_epoch": best_epoch,
            "epochs": epochs,
            "train_seconds": 74.2,
            "parameters": 650,
            "split_sizes": {"train": 1197, "val": 240, "test": 360},
            "skipped_images": {"digit/<none>": "truncated"},
        },
    )
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Finished run, which tests only read."""
    return RunFolder(make_run(tmp_path_factory.mktemp("finished") / "runs"))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Run folder that contains only its config and environment."""
    folder = create_run_folder(tmp_path / "runs", "demo", "one")
    (folder / "config.yaml").write_text(CONFIG)
    write_json(folder / "environment.json", {})
    return RunFolder(folder)


@pytest.fixture(scope="session")
def images() -> Callable[[list[str]], list[NDArray[np.uint8]]]:
    """Function that returns images of the digits by their ids."""
    return digit_images
