"""Linear scaling of the learning rate with the batch size."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from imgrec.errors import UserError


@dataclass(frozen=True)
class LearningRateScaling:
    """Result of the linear scaling rule, with the learning rate before and after.

    Args:
        given: Learning rate in the config.
        used: Learning rate of the optimizer.
        effective_batch: Number of images per optimizer step, over all processes and accumulated batches.
        reference_batch: Number of images per optimizer step for which ``given`` was tuned.
    """

    given: float
    used: float
    effective_batch: int
    reference_batch: int

    def to_dict(self) -> dict[str, float]:
        """Return the entry of the run summary."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.used:g}: {self.given:g} as given, for batches of {self.reference_batch}, "
            f"times {self.effective_batch}/{self.reference_batch}"
        )


def scale_learning_rate(lr: float, reference_batch: int, effective_batch: int | None) -> LearningRateScaling:
    """Scale the learning rate by the linear rule: ``lr * effective_batch / reference_batch``.

    Raises:
        UserError: If ``reference_batch`` is below 1, or if the effective batch is unknown.

    Source: Goyal et al. 2017, "Accurate, large minibatch SGD: training ImageNet in 1 hour", arXiv 1706.02677.

    >>> scale_learning_rate(0.1, reference_batch=256, effective_batch=512).used
    0.2
    """
    if reference_batch < 1:
        raise UserError(f"lr_reference_batch: expected int > 0, got {reference_batch}.")
    if effective_batch is None:
        raise UserError("lr_reference_batch: requires a loader with `batch_size`, or `effective_batch`.")
    if effective_batch < 1:
        raise UserError(f"effective_batch: expected int > 0, got {effective_batch}.")
    return LearningRateScaling(lr, lr * effective_batch / reference_batch, effective_batch, reference_batch)
