"""Parts of an optimizer step with masks: scores, decisions, and the checks before the first step."""

from __future__ import annotations

import pytorch_lightning as pl
from torch.optim import Optimizer

from imgrec.callbacks.compression.model_surgery import reset_best
from imgrec.callbacks.ema import EMA
from imgrec.compress.pruning.mask_config import MaskConfig
from imgrec.compress.pruning.masked_model import Masking
from imgrec.compress.pruning.schedule import Decisions
from imgrec.errors import TrainingFailedError, UserError
from imgrec.optim.optimizers.averaged import find_eval_weights_optimizer


def check_ticket_arguments(criterion: str, **others: object) -> None:
    """Raise an error for arguments that have no effect on a lottery ticket.

    Args:
        criterion: Criterion of the masks.
        **others: Arguments that a ticket excludes, with their values.

    Raises:
        UserError: If the criterion needs gradients, or if one of the others is given.
    """
    if criterion not in ("magnitude", "random"):
        raise UserError(f"Pruning.criterion: expected magnitude or random with a ticket, got {criterion}.")
    for name, value in others.items():
        if value is not None:
            raise UserError(
                f"Pruning.{name}: expected no value with a ticket, which is masked before the first step, got {value}."
            )


def require_last_masks_after(config: MaskConfig, ticket: str | None, channels: float) -> None:
    """Raise an error if channels are removed after the last masks, which would change the sparsity.

    Args:
        config: Configuration of the masks.
        ticket: Lottery ticket, whose masks are final before the first step.
        channels: Fraction of training at which the last channels are removed.

    Raises:
        UserError: If they are.
    """
    one_shot = config.schedule == "one_shot"
    masks = 0.0 if ticket else config.start if one_shot else config.end
    if masks < channels:
        hint = "Remove one of them." if ticket else f"Set {'start' if one_shot else 'end'}: {channels:g} or more."
        raise UserError(
            f"trainer.callbacks: expected the last masks of Pruning after the last round of StructuredPruning at "
            f"{channels:g} of training, got {masks:g}. {hint}"
        )


def needs_scores(config: MaskConfig, decisions: Decisions, step: int, is_due: bool) -> bool:
    """Return True if the next decision uses the gradients of this step."""
    if config.criterion == "movement":
        return step <= decisions.last
    following = decisions.following(step)
    return is_due or (following is not None and following - step < config.score_steps)


def accumulate_scores(trainer: pl.Trainer, masking: Masking, optimizer: Optimizer) -> None:
    """Add the scores of the present gradients. Skip a step that a gradient scaler skips."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None:
        masking.gather()
        return
    gradients = [weight.grad for weight in masking.weights.values() if weight.grad is not None]
    if all(bool(each.isfinite().all()) for each in gradients):
        # some optimizers divide by the scale themselves
        is_scaled = getattr(optimizer, "_step_supports_amp_scaling", False)
        masking.gather(float(scaler.get_scale()) if is_scaled else 1.0)


def prune_weights(trainer: pl.Trainer, masking: Masking, sparsity: float) -> None:
    """Decide the masks of a step and apply them to the weights and to the average of EMA.

    Raises:
        TrainingFailedError: If a score is NaN or missing.
    """
    try:
        masking.prune(sparsity)
    except ValueError as error:
        raise TrainingFailedError(
            f"Pruning, at step {trainer.global_step}: {error}. Add NaNGuard to find the first affected layer. Add a "
            "layer that does not affect the loss to `exclude`."
        ) from error
    for each in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(each, EMA):
            masking.mask_others(each.averages)
    reset_best(trainer)


def mask_after_step(masking: Masking, optimizer: Optimizer) -> None:
    """Set masked weights to zero again, and those that an averaging optimizer stores."""
    masking.mask_weights()
    if (averaged := find_eval_weights_optimizer(optimizer)) is not None:
        points = {name: averaged.point(weight) for name, weight in masking.weights.items()}
        masking.mask_others({name: point for name, point in points.items() if point is not None})


def bind_masks(masking: Masking, pl_module: pl.LightningModule) -> None:
    """Apply the masks to the present parameters of a module.

    Raises:
        UserError: If a masked weight is missing.
    """
    parameters = dict(pl_module.named_parameters())
    missing = [name for name in masking.weights if name not in parameters]
    if missing:
        raise UserError(f"Pruning: expected the weight {missing[0]} in the model, which was changed after masking.")
    masking.bind({name: parameters[name] for name in masking.weights})
