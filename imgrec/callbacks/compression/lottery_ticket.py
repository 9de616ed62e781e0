"""Lottery tickets: the masks and the early weights of a run, from which the next run starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from imgrec.compress.pruning.masked_model import Masking
from imgrec.compress.pruning.masks import apply_masks
from imgrec.errors import UserError
from imgrec.runs.checkpoints import LAST
from imgrec.runs.load import read_checkpoint
from imgrec.tasks.compatibility import check_state_dict


@dataclass(frozen=True)
class Ticket:
    """Last weights, masks and early weights of a run.

    Source: Frankle and Carbin 2019, "The lottery ticket hypothesis", arXiv 1803.03635; Frankle et al. 2020, "Linear
    mode connectivity and the lottery ticket hypothesis", arXiv 1912.05671 (rewinding to an early step).
    """

    trained: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    rewind: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: str | Path, key: str) -> Ticket:
        """Read the ticket of a run folder or of a checkpoint.

        Args:
            path: Run folder or checkpoint file.
            key: Key of the callback's state in the checkpoint.

        Raises:
            UserError: If there is no checkpoint, or if it has no weights to rewind to.
        """
        given = Path(path).expanduser()
        file = given / "checkpoints" / LAST if given.is_dir() else given
        if not file.is_file():
            raise UserError(f"Pruning.ticket: expected a run folder or a checkpoint, got {path}. There is no {file}.")
        checkpoint = read_checkpoint(file)
        state = checkpoint.get("callbacks", {}).get(key, {})
        if not state.get("rewind"):
            raise UserError(
                f"Pruning.ticket: expected a run with weights to rewind to, got {given}. Train it with "
                "{class_path: Pruning, rewind_to: 0.02}."
            )
        return cls(checkpoint["state_dict"], state["masking"]["masks"], state["rewind"])

    def take(self, pl_module: pl.LightningModule, masking: Masking, sparsity: float) -> None:
        """Mask by the magnitude of the last weights, then load the early weights into the module.

        Raises:
            UserError: If the weights are those of another architecture.
        """
        for state in (self.trained, self.rewind):
            check_state_dict(state, pl_module.state_dict())
        pl_module.load_state_dict(dict(self.trained))
        masking.masks = dict(self.masks)
        masking.bind(masking.weights)
        masking.prune(sparsity)
        pl_module.load_state_dict(dict(self.rewind))
        apply_masks(masking.weights, {name: mask != 0 for name, mask in masking.masks.items()})


def copy_of(pl_module: pl.LightningModule) -> dict[str, Any]:
    """Return a copy of the present weights and buffers on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in pl_module.state_dict().items()}
