"""Synthetic label noise, to evaluate robust training and the search for wrong labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from imgrec.data.sources.base import SOURCES, SourceView
from imgrec.data.wrappers.training_split import assign_splits, check_class_names, rows_of
from imgrec.errors import UserError
from imgrec.utils.ranges import ClosedUnitInterval, check_ranges
from imgrec.utils.seeding import position_seed

logger = logging.getLogger(__name__)

Kind = Literal["symmetric", "pairs", "asymmetric"]

TRUE_LABEL = "true_label"
"""Column with the class of each image before the noise."""


@SOURCES.register("label_noise")
class LabelNoise(SourceView):
    """Another source with wrong labels among the training images.

    Each training image receives a wrong label with the probability ``rate``. With ``symmetric``, it is a uniformly
    sampled other class. With ``pairs``, it is the next class. With ``asymmetric``, it is the class in ``flips``, and
    classes without an entry are unchanged. The noise is a function of the seed and the id of an image. With the same
    seed, the wrong labels of a lower rate are contained in those of a higher one.

    The split is made by the true labels, and test labels are clean. ``val: noisy`` adds noise to validation as well,
    for the case without clean labels for model selection. The column ``true_label`` contains the true labels.

    Args:
        source: Source, as in ``data.source``, with one label per image.
        rate: Probability of a wrong label, in [0, 1].
        kind: Type of the noise: ``symmetric``, ``pairs`` or ``asymmetric``. Defaults to ``symmetric``.
        flips: New class by old class, for ``asymmetric``.
        val: ``clean`` or ``noisy`` validation labels. Defaults to ``clean``.
        seed: Seed of the noise. Defaults to 0.
        val_fraction: Validation fraction of the data module.
        test_fraction: Test fraction of the data module.
        split_seed: Seed of the split of the data module.

    Raises:
        UserError: If ``flips`` does not fit to ``kind`` or contains an unknown class, or if images have several labels.

    Source: Patrini, Rozza, Menon, Nock and Qu 2017, "Making deep neural networks robust to label noise: a loss
    correction approach", CVPR, arXiv 1609.03683 (symmetric, asymmetric); Han, Yao, Yu, Niu, Xu, Hu, Tsang and Sugiyama
    2018, "Co-teaching", NeurIPS, arXiv 1804.06872 (pairs).

    Example::

        source: {name: label_noise, source: digits, rate: 0.4}

    >>> from imgrec.data import Digits
    >>> noisy = LabelNoise(Digits(), rate=0.4, kind="asymmetric", flips={"7": "1"})
    >>> wrong = noisy.targets != noisy.base.targets
    >>> set(noisy.columns["true_label"][wrong].tolist()), set(noisy.targets[wrong].tolist())
    ({'7'}, {1})
    """

    @check_ranges
    def __init__(
        self,
        source: Annotated[Any, SOURCES],
        rate: ClosedUnitInterval,
        kind: Kind = "symmetric",
        flips: dict[str, str] | None = None,
        val: Literal["clean", "noisy"] = "clean",
        seed: int = 0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        self.check_arguments(source, rate, kind, flips, val)
        if source.multi_label:
            raise UserError("label_noise: expected one label per image, got several.")
        names = list(source.class_names)
        check_class_names([*(flips or {}), *(flips or {}).values()], names, "flips")
        numbers = {names.index(old): names.index(new) for old, new in (flips or {}).items()}
        assigned = assign_splits(source, val_fraction, test_fraction, split_seed)
        rows = rows_of(assigned, "train", *(["val"] if val == "noisy" else []))
        targets: NDArray[np.int64] = source.targets.copy()
        draws = np.asarray([_draws(seed, source.ids[row]) for row in rows.tolist()]).reshape(-1, 2)
        targets[rows] = wrong_labels(targets[rows], draws, rate, wrong_classes(kind, len(names), numbers))
        logger.info(
            "data.source: %d of %d labels were replaced by wrong ones", (targets != source.targets).sum(), len(rows)
        )
        true = source.columns.get(TRUE_LABEL, np.asarray(names)[source.targets])
        super().__init__(source, targets=targets, splits=assigned, columns={TRUE_LABEL: true})

    @staticmethod
    def check_arguments(
        source: Any,
        rate: float,
        kind: str = "symmetric",
        flips: Mapping[str, str] | None = None,
        val: str = "clean",
        **_: Any,
    ) -> None:
        """Raise :class:`UserError` for arguments that contradict each other, before any data is read."""
        for name, given, accepted in (("kind", kind, get_args(Kind)), ("val", val, ("clean", "noisy"))):
            if given not in accepted:
                raise UserError(f'{name}: expected {", ".join(accepted)}, got "{given}".')
        if (kind == "asymmetric") != bool(flips):
            raise UserError(
                f"flips: expected a mapping of classes with `kind: asymmetric` only, got {flips or 'none'} with "
                f"`kind: {kind}`."
            )
        same = [old for old, new in (flips or {}).items() if old == new]
        if same:
            raise UserError(f'flips: expected another class for each class, got "{same[0]}" for itself.')


def wrong_classes(kind: Kind, classes: int, flips: Mapping[int, int] | None = None) -> NDArray[np.float64]:
    """Return the probabilities of the wrong labels for each class, ``(classes, classes)``.

    A row has the sum 1 and 0 on the diagonal, or is 0 for a class without noise. The transition matrix of the noise is
    this matrix times the rate, plus the remaining probability on the diagonal.

    >>> wrong_classes("pairs", 3).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    if kind == "symmetric":
        return np.asarray((1 - np.eye(classes)) / (classes - 1))
    to = {old: (old + 1) % classes for old in range(classes)} if kind == "pairs" else dict(flips or {})
    table = np.zeros((classes, classes))
    table[list(to), list(to.values())] = 1.0
    return table


def wrong_labels(
    targets: NDArray[np.int64], draws: NDArray[np.float64], rate: float, wrong: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return targets with wrong labels.

    Shapes: targets ``(images,)`` to ``(images,)``.

    Args:
        targets: True classes.
        draws: Uniform numbers in [0, 1), ``(images, 2)``: for the occurrence of noise, and for the wrong class.
        rate: Probability of a wrong label.
        wrong: Result of :func:`wrong_classes`.
    """
    found = targets.copy()
    for target in np.flatnonzero(wrong.sum(1)).tolist():
        chosen = np.flatnonzero((targets == target) & (draws[:, 0] < rate))
        reached = wrong[target].cumsum()
        found[chosen] = np.searchsorted(reached / reached[-1], draws[chosen, 1], side="right")
    return found


def _draws(seed: int, name: str) -> list[float]:
    """Return two uniform numbers in [0, 1) with 53 bits."""
    return [(position_seed(seed, "label_noise", what, name) >> 10) / 2**53 for what in ("whether", "which")]
