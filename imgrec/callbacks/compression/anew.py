"""What callbacks remember of a training is forgotten where the network has become another one."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from imgrec.callbacks.checkpoints.best import BestCheckpoint


def forget_best(trainer: pl.Trainer) -> None:
    """Let the best checkpoint and early stopping begin anew: what was best is no candidate any more.

    For what changes a network in the middle of its training, and mostly for the worse: the best validation from before
    would be kept as the result, and waiting for one that is better would end the training. Files that were written stay
    until they are written over.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
            worst = torch.tensor(torch.inf if callback.mode == "min" else -torch.inf)
            callback.best_k_models = {}
            callback.best_model_path = callback.kth_best_model_path = ""
            callback.best_model_score, callback.kth_value = None, worst
            if isinstance(callback, BestCheckpoint):
                callback.best_tie = None
        elif isinstance(callback, EarlyStopping):
            callback.wait_count = 0
            callback.best_score = torch.tensor(torch.inf if callback.mode == "min" else -torch.inf)
