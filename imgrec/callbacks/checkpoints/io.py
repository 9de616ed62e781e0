"""How every checkpoint of a training is written: whole or not at all, and a full disk does not end the run at once."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io import TorchCheckpointIO

from imgrec.errors import ResourceError
from imgrec.runs.checkpoints import FULL, write_checkpoint
from imgrec.trust import current

logger = logging.getLogger(__name__)


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint plugin for files that are whole or not there, see :func:`write_checkpoint`.

    Lightning's own holds the whole file in memory, writes it to the system's temporary folder and moves it from there:
    on another file system that is a copy, which a kill cuts off, and nothing is synchronised.

    Where the disk is full the old checkpoint stays, a warning is logged, and training goes on. The third failure in a
    row becomes :attr:`gave_up`, with which :class:`imgrec.callbacks.LastCheckpoint` ends the run at the next step.

    Args:
        failures: after how many failures in a row it gives up.
    """

    def __init__(self, failures: int = 3) -> None:
        self.failures = failures
        self.failed = 0
        self.gave_up: ResourceError | None = None
        self._written: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the checkpoint; a full disk is logged and counted.

        Raises:
            WriteError: If it cannot be written for another reason.
        """
        if storage_options is not None:
            raise TypeError(f"{type(self).__name__} takes no storage_options")
        try:
            write_checkpoint(checkpoint, path)
        except OSError as error:
            if error.errno not in FULL:
                raise
            self.failed += 1
            why = f"the checkpoint {os.fspath(path)} could not be written: {error.strerror}"
            if self.failed < self.failures:
                kept = "the old one stays" if Path(path).exists() else "there was none before"
                logger.warning("%s; %s, and training goes on", why, kept)
            else:
                self.gave_up = ResourceError(
                    f"{why}, {self.failed} times in a row. The run ends here; it can be resumed."
                )
        else:
            self.failed = 0
            self._written.add(Path(path).resolve().parent)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint that another one replaces, unless that one could not be written.

        The path can come from a received checkpoint. Then only folders that this training writes to are touched.
        """
        if self.failed or (current() is not None and Path(path).resolve().parent not in self._written):
            return
        super().remove_checkpoint(path)
