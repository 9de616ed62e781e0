from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from imgrec.data import SOURCES, Digits, ImageDataModule, LabelNoise, Source, map_classes
from imgrec.data.wrappers.label_noise import wrong_classes, wrong_labels
from imgrec.errors import UserError
from tests.data.helpers import split_rows

KINDS: list[dict[str, Any]] = [
    {"kind": "symmetric"},
    {"kind": "pairs"},
    {"kind": "asymmetric", "flips": {"9": "1", "2": "0", "4": "7", "3": "5", "5": "3"}},
]


def wrong(source: Source, base: Source, split: str = "train") -> set[str]:
    return {source.ids[row] for row in split_rows(source, split) if source.targets[row] != base.targets[row]}


@pytest.mark.parametrize("arguments", KINDS)
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.6, 1.0])
def test_the_transition_matrix_determines_the_label_noise(arguments: dict[str, Any], rate: float) -> None:
    """Counts of a hundred thousand drawn labels against the matrix, within five standard deviations."""
    classes, images = 10, 100_000
    generator = np.random.default_rng(0)
    flips = {int(old): int(new) for old, new in arguments.get("flips", {}).items()}
    table = wrong_classes(arguments["kind"], classes, flips)
    targets = generator.integers(classes, size=images)
    found = wrong_labels(targets, generator.random((images, 2)), rate, table)
    counts = np.zeros((classes, classes))
    np.add.at(counts, (targets, found), 1)
    totals = counts.sum(1, keepdims=True)
    transition = rate * table + np.diag(1 - rate * table.sum(1))
    assert transition.sum(1) == pytest.approx(np.ones(classes))
    deviation = np.sqrt(totals * transition * (1 - transition))
    assert (np.abs(counts - totals * transition) <= 5 * deviation + 1e-9).all()


def test_the_largest_draw_still_names_another_class() -> None:
    last = np.nextafter(1.0, 0.0)
    for classes in range(2, 60):
        targets = np.arange(classes)
        for which in (0.0, last):
            draws = np.tile([0.0, which], (classes, 1))
            found = wrong_labels(targets, draws, 1.0, wrong_classes("symmetric", classes))
            assert (found != targets).all()
            assert set(found.tolist()) <= set(range(classes))


@pytest.mark.parametrize("arguments", KINDS)
def test_wrong_labels_are_in_training_alone_and_the_true_ones_are_kept(arguments: dict[str, Any]) -> None:
    places: dict[str, Any] = {"image_size": 8, "val_fraction": 0.2, "test_fraction": 0.3, "split_seed": 5}
    clean = ImageDataModule("digits", **places)
    noisy = ImageDataModule({"name": "label_noise", "source": "digits", "rate": 0.5, **arguments}, **places)
    clean.setup()
    noisy.setup()
    for split in ("train", "val", "test"):
        before = [clean.source.ids[row] for row in getattr(clean.splits, split)]
        assert [noisy.source.ids[row] for row in getattr(noisy.splits, split)] == before
    differ = noisy.source.targets != clean.source.targets
    assert differ[noisy.splits.train].mean() > 0.15
    assert not differ[noisy.splits.val].any()
    assert not differ[noisy.splits.test].any()
    true = noisy.source.columns["true_label"]
    assert true.tolist() == [clean.source.class_names[target] for target in clean.source.targets]
    assert noisy.fingerprint != clean.fingerprint
    assert sum(noisy.facts.class_counts) == sum(clean.facts.class_counts)


def test_validation_may_be_as_wrong_as_training_and_the_test_never_is() -> None:
    base = Digits()
    noisy = LabelNoise(base, rate=0.4, val="noisy")
    share = len(wrong(noisy, base, "val")) / len(split_rows(noisy, "val"))
    assert 0.25 < share < 0.55
    assert not wrong(noisy, base, "test")
    assert wrong(noisy, base) == wrong(LabelNoise(base, rate=0.4), base)


def test_wrong_labels_of_a_lower_rate_are_among_those_of_a_higher_one() -> None:
    base = Digits()
    found = [LabelNoise(base, rate=rate) for rate in (0.1, 0.4, 0.6)]
    parts = [wrong(source, base) for source in found]
    assert parts[0] < parts[1] < parts[2]
    at = [base.ids.index(name) for name in parts[1]]
    assert np.array_equal(found[1].targets[at], found[2].targets[at])
    assert wrong(LabelNoise(base, rate=0.4, seed=1), base) != parts[1]


def test_label_noise_does_not_depend_on_other_images() -> None:
    """Noise on a part is a part of the noise: it is drawn from seed and id."""
    base = Digits()
    noisy = LabelNoise(base, rate=0.5)
    part = SOURCES.build({"name": "subset", "source": "digits", "per_class": 50})
    of_part = LabelNoise(part, rate=0.5)
    label = dict(zip(noisy.ids, noisy.targets.tolist(), strict=True))
    assert [label[of_part.ids[row]] for row in split_rows(of_part, "train")] == [
        of_part.targets[row] for row in split_rows(of_part, "train")
    ]


def test_noise_upon_noise_keeps_the_truth() -> None:
    base = Digits()
    twice = LabelNoise(LabelNoise(base, rate=0.3), rate=0.3, seed=1)
    assert twice.columns["true_label"].tolist() == [base.class_names[target] for target in base.targets]


def test_it_composes_with_other_classes_and_a_tail() -> None:
    spec: dict[str, Any] = {"name": "label_noise", "rate": 0.2}
    spec["source"] = {"name": "long_tail", "source": "digits", "imbalance": 10}
    tail = SOURCES.build(spec["source"])
    noisy = SOURCES.build(spec)
    assert noisy.ids == tail.ids
    even = map_classes(noisy, {"1": "odd", "3": "odd", "5": "odd", "7": "odd", "9": "odd", "*": "even"})
    agree = (np.isin(even.columns["true_label"], list("13579"))) == (even.targets == even.class_names.index("odd"))
    assert 0 < (~agree).sum() < len(split_rows(noisy, "train")) * 0.2
    pixels = noisy.gather(np.asarray([3, 1]))
    assert pixels is not None
    assert torch.equal(pixels[0], tail.load(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r'^data\.source: the source "label_noise" needs the argument "rate"'),
        ({"rate": 1.2}, r"^data\.source\.rate: expected float in \[0, 1\], got 1\.2"),
        ({"rate": float("nan")}, r"rate: expected float in \[0, 1\], got nan"),
        ({"rate": 0.2, "kind": "pair"}, r"data\.source\.kind: expected Literal"),
        ({"rate": 0.2, "kind": "asymmetric"}, r"flips: .* got none with `kind: asymmetric`"),
        ({"rate": 0.2, "flips": {"1": "7"}}, r"flips: .* only, got .* with `kind: symmetric`"),
        (
            {"rate": 0.2, "kind": "asymmetric", "flips": {"1": "1"}},
            r'flips: expected another class for each class, got "1" for itself',
        ),
        ({"rate": 0.2, "val": "wrong"}, r"data\.source\.val: expected Literal\['clean', 'noisy'\], got 'wrong'"),
    ],
)
def test_invalid_arguments_are_rejected_before_data_is_read(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageDataModule({"name": "label_noise", "source": "digits", **arguments})


def test_a_class_that_the_source_has_not_is_named() -> None:
    with pytest.raises(UserError, match=r'flips: the data has no class "seven"\..* It has: 0, 1, 2'):
        LabelNoise(Digits(), rate=0.2, kind="asymmetric", flips={"1": "seven"})


def test_several_labels_are_not_made_wrong() -> None:
    class Several(Digits):
        def __init__(self) -> None:
            super().__init__()
            self.targets = np.eye(10, dtype=np.float32)[self.targets]

    with pytest.raises(UserError, match="expected one label per image, got several"):
        LabelNoise(Several(), rate=0.1)
