"""The data that a run was trained on: its config, its stored split, and the check that nothing has changed."""

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

DATA = "data_fingerprint"
"""Where environment.json holds the fingerprint of the data."""

SELECTING = ("source", "classes", "exclude", "relabel", "val_fraction", "test_fraction", "split_seed")
"""Arguments of the data module that decide which images there are, their labels and their splits."""


def build_data(config: Mapping[str, Any]) -> Any:
    """Build the data module that a run's config names under ``data``; no data is read.

    Raises:
        UserError: If it cannot be built.
    """
    class_path = config.get("class_path") if isinstance(config, Mapping) else None
    if not isinstance(class_path, str) or not class_path:
        raise UserError(f"the run's data module cannot be built: its config names no class, got {class_path!r}")
    with opening("the run's config"):
        try:
            cls = import_named(class_path, "data.class_path", "data module", (ImageDataModule,))
            return cls(**config.get("init_args", {}))
        except UntrustedError:
            raise
        except (ImportError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"the run's data module cannot be built: {error}") from error


def data_of(run: RunFolder) -> Any:
    """Return the data module of a run, set up, with exactly the images and the split that the run was trained with.

    Raises:
        UserError: If the data is not available, or differs from the data of the run.
    """
    try:
        data = build_data(run.config.get("data") or {})
    except UserError as error:
        raise UserError(f"the data of the run {run.path} is not available: {error}") from error
    hold_to_run(data, run)
    return data


def selects_otherwise(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return True if two resolved sections ``data`` may mean other images, labels or splits."""
    if config.get("class_path") != other.get("class_path"):
        return True
    ours, theirs = config.get("init_args") or {}, other.get("init_args") or {}
    keys = {*SELECTING} if any(key in SELECTING for key in (*ours, *theirs)) else {*ours, *theirs}
    return any(ours.get(key) != theirs.get(key) for key in keys)


def hold_to_run(data: Any, run: RunFolder, changed: bool = False) -> None:
    """Set up a data module with the split that a run stores; refuse data that is not the run's.

    A run folder without splits.parquet was written by an older version, or by a data module that has no
    ``use_splits``. Its fingerprint is compared then, and the data module draws the split again.

    Args:
        data: a data module that is not set up.
        run: the run folder.
        changed: accept that the data has changed; see :meth:`imgrec.data.ImageDataModule.use_splits`.

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
    before, now = last.get(DATA), getattr(data, "fingerprint", None)
    if stored is None and not changed and before is not None and now != before:
        raise UserError(
            f"the data of the run {run.path} has changed since it was trained: its fingerprint was {before} and is "
            f"{now} now. The run folder has no {SPLITS_FILE}, so that its split cannot be found again"
        )


def store_splits(run: Path, data: Any, again: bool = False) -> None:
    """Write the split of a data module into a run folder, unless one is stored there already.

    A data module without ``split_table`` stores none.

    Args:
        run: the run folder.
        data: a data module that is set up.
        again: replace a stored split: for a run that is resumed with data that was allowed to change.
    """
    path = run / SPLITS_FILE
    if hasattr(data, "split_table") and (again or not path.exists()):
        data.split_table().write(path)


def data_key(run: RunFolder) -> str:
    """Return a text that is equal for runs that were trained and evaluated on the same images with the same splits."""
    stored = run.splits()
    last = (run.environment.get("resumed") or [run.environment])[-1]
    known = last.get(DATA) if stored is None else stored.digest
    return json.dumps([run.config.get("data"), known], sort_keys=True, default=str)


def refuse_other_images(run: RunFolder, split: str, predictions: Predictions) -> None:
    """Refuse to write predictions into a run that are not of its own images.

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
            f"the results of the run {run.path} stay as they are: {error}. `imgrec evaluate RUN DATA` evaluates other "
            "data"
        ) from error


def images_of(data: Any) -> Callable[[Sequence[str]], list[NDArray[np.uint8] | None]]:
    """Return a function from sample ids to images for a page, of a data module that can load them."""

    def images(ids: Sequence[str]) -> list[NDArray[np.uint8] | None]:
        return [None if image is None else image.permute(1, 2, 0).numpy() for image in load_reduced(data, ids)]

    return images
