"""Atomic writing of checkpoints that tolerates a full disk."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io import TorchCheckpointIO

from imgrec.errors import ResourceError
from imgrec.runs.checkpoints import DISK_FULL, write_checkpoint
from imgrec.trust import current

logger = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint plugin that writes a complete file or none, see :func:`write_checkpoint`.

    The plugin of Lightning holds the whole file in memory, writes it to the temporary folder of the system and moves
    it. On another file system that is a copy, which a kill truncates, and nothing is synchronized.

    On a full disk the previous checkpoint stays, a warning is logged and training continues. After several failures in
    a row :attr:`gave_up` is set, with which :class:`imgrec.callbacks.LastCheckpoint` ends the run at the next step.

    Args:
        failures: Number of failures in a row after which it gives up. Defaults to 3.
    """

    def __init__(self, failures: int = 3) -> None:
        self.failures = failures
        self.failed = 0
        self.gave_up: ResourceError | None = None
        self._written: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the checkpoint. A full disk is logged and counted.

        Raises:
            WriteError: If it cannot be written for another reason.
        """
        if storage_options is not None:
            raise TypeError(f"{type(self).__name__} takes no storage_options")
        try:
            write_checkpoint(checkpoint, path)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            self.failed += 1
            why = f"the checkpoint {os.fspath(path)} could not be written: {error.strerror}"
            if self.failed < self.failures:
                kept = "The previous one remains." if Path(path).exists() else "There is no previous one."
                logger.warning("%s. %s Training continues.", why, kept)
            else:
                self.gave_up = ResourceError(
                    f"{why}, {self.failed} times in a row. The run ends here and can be resumed."
                )
        else:
            self.failed = 0
            self._written.add(Path(path).resolve().parent)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint that another one replaces, unless the other one was not written.

        The path can come from a received checkpoint. In this case only folders of this training are changed.
        """
        if self.failed or (current() is not None and Path(path).resolve().parent not in self._written):
            return
        super().remove_checkpoint(path)
