"""Pruning and quantization as pure functions on ``nn.Module``, without Lightning."""

from imgrec.compress.pruning.blocks import BlockReport, drop_blocks, residual_blocks
from imgrec.compress.pruning.channel_importance import channel_importance, loss_gradients
from imgrec.compress.pruning.channel_search import ChannelPruning
from imgrec.compress.pruning.channels import ChannelReport, prune_channels
from imgrec.compress.pruning.masks import apply_masks, keep_best, n_of_m, prunable, sparsity_of
from imgrec.compress.pruning.schedule import sparsity_at
from imgrec.compress.pruning.targets import CostTarget, cost_of, parse_target, share_of
from imgrec.compress.pruning.weight_importance import SCORES, accumulate, score
from imgrec.compress.pruning.widths import resize, select, widths_step
from imgrec.compress.quantization.int8 import Int8Classifier, to_int8
from imgrec.compress.quantization.qat import QuantizedClassifier
from imgrec.compress.surgery import note_step, rebuild, surgery_of, surgical

__all__ = [
    "SCORES",
    "BlockReport",
    "ChannelPruning",
    "ChannelReport",
    "CostTarget",
    "Int8Classifier",
    "QuantizedClassifier",
    "accumulate",
    "apply_masks",
    "channel_importance",
    "cost_of",
    "drop_blocks",
    "keep_best",
    "loss_gradients",
    "n_of_m",
    "note_step",
    "parse_target",
    "prunable",
    "prune_channels",
    "rebuild",
    "residual_blocks",
    "resize",
    "score",
    "select",
    "share_of",
    "sparsity_at",
    "sparsity_of",
    "surgery_of",
    "surgical",
    "to_int8",
    "widths_step",
]
