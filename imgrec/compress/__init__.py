"""Smaller and faster networks: pure functions on ``nn.Module``, which know nothing of Lightning."""

from imgrec.compress.masks import apply_masks, keep_best, n_of_m, prunable, sparsity_of
from imgrec.compress.schedule import sparsity_at
from imgrec.compress.scores import SCORES, accumulate, score

__all__ = [
    "SCORES",
    "accumulate",
    "apply_masks",
    "keep_best",
    "n_of_m",
    "prunable",
    "score",
    "sparsity_at",
    "sparsity_of",
]
