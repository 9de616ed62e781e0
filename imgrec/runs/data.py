"""The data that a run was trained on, from what its config says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.data.reduced import load_reduced
from imgrec.errors import UserError
from imgrec.runs.folder import RunFolder

DATA = "data_fingerprint"
"""Where environment.json holds the fingerprint of the data."""


def data_module(config: Mapping[str, Any]) -> Any:
    """The data module that a run's config names under ``data``, set up for the test split.

    Raises:
        UserError: it cannot be built: its class or its images are not at hand.
    """
    module, _, name = str(config.get("class_path", "")).rpartition(".")
    try:
        data = getattr(import_module(module), name)(**config.get("init_args", {}))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"the run's data module cannot be built: {error}") from error
    data.setup("test")
    return data


def data_of(run: RunFolder) -> Any:
    """The data module of a run, set up, where the images are those that the run has seen.

    Raises:
        UserError: they are not at hand, or others than they were.
    """
    try:
        data = data_module(run.config.get("data") or {})
    except UserError as error:
        raise UserError(f"the data of the run {run.path} is not at hand: {error}") from error
    last = (run.environment.get("resumed") or [run.environment])[-1]
    before, now = last.get(DATA), getattr(data, "fingerprint", None)
    if before is not None and now != before:
        raise UserError(
            f"the data of the run {run.path} has changed since it was trained: its fingerprint was {before} and is "
            f"{now} now"
        )
    return data


def images_of(data: Any) -> Callable[[Sequence[str]], list[NDArray[np.uint8] | None]]:
    """Return a function from sample ids to images for a page, of a data module that can load them."""

    def images(ids: Sequence[str]) -> list[NDArray[np.uint8] | None]:
        return [None if image is None else image.permute(1, 2, 0).numpy() for image in load_reduced(data, ids)]

    return images
