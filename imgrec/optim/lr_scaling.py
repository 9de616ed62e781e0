"""A learning rate that was found at one batch size, at another."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from imgrec.errors import UserError


@dataclass(frozen=True)
class LearningRateScaling:
    """What the linear rule made of a learning rate; both values are kept, so that nothing is rescaled silently.

    Args:
        given: the learning rate in the config.
        used: the learning rate that the optimizer got.
        effective_batch: images in an optimizer step, over all processes and accumulated batches.
        reference_batch: images in an optimizer step that ``given`` is for.
    """

    given: float
    used: float
    effective_batch: int
    reference_batch: int

    def to_dict(self) -> dict[str, float]:
        """As it stands in a run's summary."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.used:g}: {self.given:g} as given, for batches of {self.reference_batch}, "
            f"times {self.effective_batch}/{self.reference_batch}"
        )


def scale_learning_rate(lr: float, reference_batch: int, effective_batch: int | None) -> LearningRateScaling:
    """The linear scaling rule: ``lr * effective_batch / reference_batch``.

    Raises:
        UserError: ``reference_batch`` is below 1, or the effective batch is not known.

    Source: Goyal et al. 2017, "Accurate, large minibatch SGD: training ImageNet in 1 hour", arXiv 1706.02677.

    >>> scale_learning_rate(0.1, reference_batch=256, effective_batch=512).used
    0.2
    """
    if reference_batch < 1:
        raise UserError(f"lr_reference_batch: must be 1 or more, got {reference_batch}.")
    if effective_batch is None:
        raise UserError("lr_reference_batch: needs a loader that says its batch_size, or effective_batch beside it.")
    if effective_batch < 1:
        raise UserError(f"effective_batch: must be 1 or more, got {effective_batch}.")
    return LearningRateScaling(lr, lr * effective_batch / reference_batch, effective_batch, reference_batch)
