"""Wrong labels, put in on purpose: to learn in spite of them, or to find them again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from imgrec.data.sources.base import SOURCES, SourceView
from imgrec.data.wrappers.training_split import assign_splits, check_class_names, rows_of
from imgrec.errors import UserError
from imgrec.utils.seeding import position_seed

logger = logging.getLogger(__name__)

Kind = Literal["symmetric", "pairs", "asymmetric"]

TRUE_LABEL = "true_label"
"""The column of a source that holds the name of each image's class before labels were made wrong."""


@SOURCES.register("label_noise")
class LabelNoise(SourceView):
    """Another source with wrong labels among the training images.

    Each training image gets a wrong label with the probability ``rate``: with ``symmetric`` that of any other class,
    all equally often; with ``pairs`` that of the next class, the first one's after the last; with ``asymmetric`` that
    of the class that ``flips`` names, and images of classes that it does not name keep theirs. Which labels are wrong
    is a function of the seed and of an image's id alone; with the same seed, the wrong labels of a lower rate are
    among those of a higher one.

    Validation and test are carved by the true labels, before any is made wrong, and are clean; ``val: noisy`` makes
    validation as wrong as training, as it is where nobody has clean labels to choose by. The true labels stay in the
    column ``true_label``.

    Args:
        source: the source, as in ``data.source``; one label an image.
        rate: the probability of a wrong label, from 0 to 1.
        kind: which label is the wrong one.
        flips: for ``asymmetric``: the class that an image is taken for, by the class it has.
        val: whether validation has the true labels or wrong ones too.
        seed: another one makes other labels wrong.
        val_fraction: as in the data module, which says it.
        test_fraction: likewise.
        split_seed: likewise.

    Raises:
        UserError: a rate that is no probability, ``flips`` missing or of no use, a class in it that the source has
            not, or several labels an image.

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

    def __init__(
        self,
        source: Annotated[Any, SOURCES],
        rate: float,
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
            raise UserError("label_noise: one wrong label an image is for single-label data; these have several.")
        names = list(source.class_names)
        check_class_names([*(flips or {}), *(flips or {}).values()], names, "flips")
        numbers = {names.index(old): names.index(new) for old, new in (flips or {}).items()}
        decided = assign_splits(source, val_fraction, test_fraction, split_seed)
        rows = rows_of(decided, "train", *(["val"] if val == "noisy" else []))
        targets: NDArray[np.int64] = source.targets.copy()
        draws = np.asarray([_draws(seed, source.ids[row]) for row in rows.tolist()]).reshape(-1, 2)
        targets[rows] = wrong_labels(targets[rows], draws, rate, wrong_classes(kind, len(names), numbers))
        logger.info("data.source: %d of %d labels are made wrong", (targets != source.targets).sum(), len(rows))
        true = source.columns.get(TRUE_LABEL, np.asarray(names)[source.targets])
        super().__init__(source, targets=targets, splits=decided, columns={TRUE_LABEL: true})

    @staticmethod
    def check_arguments(
        source: Any,
        rate: float,
        kind: str = "symmetric",
        flips: Mapping[str, str] | None = None,
        val: str = "clean",
        **_: Any,
    ) -> None:
        """Raise :class:`UserError` for what can be told to be wrong before anything is read."""
        if not 0 <= rate <= 1:
            raise UserError(f"rate: a probability, from 0 to 1, got {rate}.")
        for name, given, accepted in (("kind", kind, get_args(Kind)), ("val", val, ("clean", "noisy"))):
            if given not in accepted:
                raise UserError(f'{name}: accepted are {", ".join(accepted)}, got "{given}".')
        if (kind == "asymmetric") != bool(flips):
            raise UserError(
                f"flips: which class is taken for which, for `kind: asymmetric` and for no other; got {flips or 'none'}"
                f" with `kind: {kind}`."
            )
        same = [old for old, new in (flips or {}).items() if old == new]
        if same:
            raise UserError(f'flips: the class "{same[0]}" is taken for itself.')


def wrong_classes(kind: Kind, classes: int, flips: Mapping[int, int] | None = None) -> NDArray[np.float64]:
    """Which wrong label an image of each class gets, as probabilities: ``(classes, classes)``.

    A row sums to 1 and has 0 on the diagonal; that of a class whose images keep their label is 0. With the rate r,
    ``r * wrong_classes(...)`` and the rest on the diagonal is the transition matrix of the noise.

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
    """The targets, some of them made wrong.

    Shapes: targets ``(images,)`` to ``(images,)``.

    Args:
        targets: the true classes.
        draws: ``(images, 2)`` from [0, 1): whether a label is wrong, and which one it then is.
        rate: the probability that a label is wrong.
        wrong: as :func:`wrong_classes` gives it.
    """
    found = targets.copy()
    for target in np.flatnonzero(wrong.sum(1)).tolist():
        chosen = np.flatnonzero((targets == target) & (draws[:, 0] < rate))
        reached = wrong[target].cumsum()
        found[chosen] = np.searchsorted(reached / reached[-1], draws[chosen, 1], side="right")
    return found


def _draws(seed: int, name: str) -> list[float]:
    """Two numbers from [0, 1), of 53 bits each."""
    return [(position_seed(seed, "label_noise", what, name) >> 10) / 2**53 for what in ("whether", "which")]
