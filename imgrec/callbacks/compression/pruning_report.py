"""Log lines and summary of unstructured pruning."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import nn

from imgrec.callbacks.recording.current_run import run_folder
from imgrec.compress.pruning.mask_config import MaskConfig
from imgrec.compress.pruning.masked_model import Masking
from imgrec.compress.pruning.masks import first_and_last, sparsity_of
from imgrec.runs.summary import update_summary

logger = logging.getLogger(__name__)
log_info = rank_zero_only(logger.info)
log_warning = rank_zero_only(logger.warning)


def split_prefix(pl_module: pl.LightningModule) -> tuple[nn.Module, str]:
    """Return the ``model`` of a module, or the module without one, and the prefix of its names in the state dict."""
    model = getattr(pl_module, "model", None)
    return (model, "model.") if isinstance(model, nn.Module) else (pl_module, "")


def log_plan(config: MaskConfig, masking: Masking, pl_module: pl.LightningModule) -> None:
    """Log the sparsity, the criterion and the number of weights at the start of a training."""
    weights = masking.weights
    count = sum(weight.numel() for weight in weights.values())
    model, prefix = split_prefix(pl_module)
    has_output = any(f"{prefix}{layer}.weight" in weights for layer in first_and_last(model)[1:])
    note = ", including the output layer" if has_output else ""
    plan = f"{config.describe()} by {config.criterion}"
    log_info("Pruning: %s, of %s weights in %d layers%s", plan, f"{count:,}", len(weights), note)


def log_dense_layers(config: MaskConfig, names: Sequence[str]) -> None:
    """Log the layers that stay dense because the pattern does not divide their number of inputs."""
    if names:
        log_info("Pruning: %s does not divide the inputs of these dense layers: %s", config.describe(), _layers(names))


def warn_of_collapse(config: MaskConfig, names: Sequence[str], step: int) -> None:
    """Log the layers of which every weight is masked, with a change of the config that may avoid it."""
    if names:
        hint = "start: 0.01" if config.criterion == "snip" else "scope: layer"  # residual branches are zero at step 0
        log_warning("Pruning: at step %d no weight is left of %s. Try %s.", step, _layers(names), hint)


def write_pruning_summary(trainer: pl.Trainer, pl_module: pl.LightningModule, config: MaskConfig, m: Masking) -> None:
    """Write the number of zeros into the summary of the run, and log it. Without a run folder, do nothing."""
    folder = run_folder(trainer)
    if folder is None:
        return
    sparsity = sparsity_of(m.weights)
    weights = sum(weight.numel() for weight in m.weights.values())
    parameters = sum(each.numel() for each in split_prefix(pl_module)[0].parameters())
    entry: dict[str, Any] = {"sparsity": round(sparsity, 6), "weights": weights, "layers": len(m.weights)}
    entry |= {"zeros": round(sparsity * weights), "parameters": parameters, "criterion": config.criterion}
    update_summary(folder, {"pruning": entry})
    log_info(
        "pruned: %.2f %% of %s weights in %d layers are zero (%s parameters in all). Speed and size do not change.",
        *(100 * sparsity, f"{weights:,}", len(m.weights), f"{parameters:,}"),
    )


def _layers(names: Sequence[str]) -> str:
    return ", ".join(name.removeprefix("model.").removesuffix(".weight") for name in names)
