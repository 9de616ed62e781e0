"""Log handlers of imgrec, and filters for warnings of libraries that do not apply to its runs."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

from imgrec.utils.terminal import EscapingFormatter, escape_warnings

_FILTERED = (
    "is smaller than the logging interval",
    "does not have many workers which may be a bottleneck",
    "Checkpoint directory .* exists and is not empty",
    "Starting from v1.9.0, `tensorboardX` has been removed",
    "isinstance\\(treespec, LeafSpec\\)",
    "callbacks used to create the checkpoint need to be provided",
    "The dirpath has changed from .* won't be reloaded",  # a run that is continued from a checkpoint has a new folder
    "monitor='val/acc'.* could not find the monitored key",  # interrupted in the first epoch
    "WeightAveraging callback with a model that overrides the configure_model",
    "It is recommended to use `self.log\\(.*sync_dist=True",  # the metrics cover the samples of all processes
    "FSDP2-wrapped module .* returned a view tensor",  # the view is not modified in place
)
_QUIET_LOGGERS = ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.seed")


class _StderrHandler(logging.StreamHandler[Any]):
    """Handler that writes to the current value of ``sys.stderr``."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def quiet_libraries() -> None:
    """Filter repeated messages of Lightning, and print the messages of imgrec on stderr."""
    ours = logging.getLogger("imgrec")
    ours.setLevel(logging.INFO)
    if not ours.handlers:
        handler = _StderrHandler()
        handler.setFormatter(EscapingFormatter())
        ours.addHandler(handler)
    if not logging.getLogger().handlers:
        # logging.warning() of a library adds a handler to a root logger without one, and that handler prints every
        # message of imgrec a second time. This handler prints the warnings of others, as Python does by default.
        others = _StderrHandler()
        others.setLevel(logging.WARNING)
        others.addFilter(lambda record: record.name.partition(".")[0] != "imgrec")
        others.setFormatter(EscapingFormatter())
        logging.getLogger().addHandler(others)
    escape_warnings()
    for text in _FILTERED:
        warnings.filterwarnings("ignore", f".*{text}")
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
