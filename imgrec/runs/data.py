"""Data of a run: data module, stored split, and the check for changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.data import ImageDataModule
from imgrec.data.splits.table import SplitError
from imgrec.data.thumbnails import load_reduced
from imgrec.errors import UserError
from imgrec.runs.folder import SPLITS_FILE, RunFolder
from imgrec.runs.predictions import Predictions
from imgrec.trust import import_named, opening
from imgrec.trust.untrusted import UntrustedError

FINGERPRINT = "data_fingerprint"
"""Key of the fingerprint of the data in environment.json."""

SELECTION_ARGUMENTS = ("source", "classes", "exclude", "relabel", "val_fraction", "test_fraction", "split_seed")
"""Arguments of the data module that determine images, labels and splits."""


def build_data(config: Mapping[str, Any]) -> Any:
    """Build a data module. No data is read.

    Args:
        config: Section ``data`` of the config of a run.

    Raises:
        UserError: If the data module cannot be built.
    """
    class_path = config.get("class_path") if isinstance(config, Mapping) else None
    if not isinstance(class_path, str) or not class_path:
        raise UserError(f"data.class_path: expected the class of a data module, got {class_path!r}.")
    with opening("the run's config"):
        try:
            cls = import_named(class_path, "data.class_path", "data module", (ImageDataModule,))
            return cls(**config.get("init_args", {}))
        except UntrustedError:
            raise
        except (ImportError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"the data module of the run cannot be built: {error}") from error


def load_run_data(run: RunFolder) -> Any:
    """Build and set up the data module of a run, with the images and the split of its training.

    Raises:
        UserError: If the data is not available, or differs from the data of the run.
    """
    try:
        data = build_data(run.config.get("data") or {})
    except UserError as error:
        raise UserError(f"the data of the run {run.path} is not available: {error}") from error
    set_up_run_data(data, run)
    return data


def is_other_selection(config: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    """Return True if two resolved sections ``data`` may select different images, labels or splits."""
    if config.get("class_path") != reference.get("class_path"):
        return True
    first, second = config.get("init_args") or {}, reference.get("init_args") or {}
    keys = {*SELECTION_ARGUMENTS} if any(key in SELECTION_ARGUMENTS for key in (*first, *second)) else {*first, *second}
    return any(first.get(key) != second.get(key) for key in keys)


def set_up_run_data(data: Any, run: RunFolder, changed: bool = False) -> None:
    """Set up a data module with the stored split of a run, and check that the data is unchanged.

    A run folder without splits.parquet was written by an older version, or by a data module without ``use_splits``. In
    this case the fingerprints are compared, and the data module computes the split again.

    Args:
        data: Data module that is not set up.
        run: Run folder.
        changed: If True, accept changed data. See :meth:`imgrec.data.ImageDataModule.use_splits`. Defaults to False.

    Raises:
        UserError: If the data is not available, or differs from the data of the run.
    """
    stored = run.splits() if hasattr(data, "use_splits") else None
    if stored is not None:
        data.use_splits(stored, changed)
    try:
        data.prepare_data()
        data.setup("test")
    except SplitError as error:
        raise UserError(
            f"the data of the run {run.path} has changed since it was trained: {error}. Restore it, or evaluate other "
            "data with `imgrec evaluate RUN DATA`"
        ) from error
    except UserError as error:
        raise UserError(f"the data of the run {run.path} is not available: {error}") from error
    last = (run.environment.get("resumed") or [run.environment])[-1]
    before, now = last.get(FINGERPRINT), getattr(data, "fingerprint", None)
    if stored is None and not changed and before is not None and now != before:
        raise UserError(
            f"the data of the run {run.path} has changed since it was trained: its fingerprint was {before} and is "
            f"{now} now. The run folder has no {SPLITS_FILE}, so that its split cannot be restored"
        )


def store_splits(run: Path, data: Any, again: bool = False) -> None:
    """Write the split of a data module to a run folder, unless it contains one already.

    A data module without ``split_table`` stores none.

    Args:
        run: Run folder.
        data: Data module that is set up.
        again: If True, replace a stored split, for a run that is resumed with changed data. Defaults to False.
    """
    path = run / SPLITS_FILE
    if hasattr(data, "split_table") and (again or not path.exists()):
        data.split_table().write(path)


def data_key(run: RunFolder) -> str:
    """Return a text that is equal for runs with the same images and splits."""
    stored = run.splits()
    last = (run.environment.get("resumed") or [run.environment])[-1]
    data_id = last.get(FINGERPRINT) if stored is None else stored.digest
    return json.dumps([run.config.get("data"), data_id], sort_keys=True, default=str)


def check_run_images(run: RunFolder, split: str, predictions: Predictions) -> None:
    """Check that predictions belong to the images of a split of a run.

    Raises:
        UserError: If an image is not in that split of the run, or has another class.
    """
    stored = run.splits()
    if stored is None:
        return
    try:
        labels = [predictions.class_names[target] for target in predictions.targets.tolist()]
        stored.check_predictions(split, predictions.ids, labels)
    except UserError as error:
        raise UserError(
            f"the results of the run {run.path} are not replaced: {error}. `imgrec evaluate RUN DATA` evaluates other "
            "data"
        ) from error


def make_image_loader(data: Any) -> Callable[[Sequence[str]], list[NDArray[np.uint8] | None]]:
    """Return a function that loads the images of sample ids for a page.

    Args:
        data: Data module with ``load_images``.
    """

    def images(ids: Sequence[str]) -> list[NDArray[np.uint8] | None]:
        return [None if image is None else image.permute(1, 2, 0).numpy() for image in load_reduced(data, ids)]

    return images
