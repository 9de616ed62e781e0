from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from imgrec.compare.comparison import compare_runs
from imgrec.compare.text import group_columns, to_dict, to_markdown
from imgrec.errors import UserError
from imgrec.runs.folder import RunFolder
from imgrec.runs.predictions import Predictions, write_predictions
from imgrec.runs.summary import update_summary
from imgrec.stats.paired import mcnemar_exact, paired_bootstrap
from imgrec.stats.seeds import difference_over_seeds, estimate_false_positive_rate

StoredRun = Callable[..., Path]
PLAIN = {"loss": "cross_entropy"}
FOCAL = {"loss": {"name": "focal", "gamma": 2.0}}


def random_correct(share: float, seed: int, count: int = 300) -> NDArray[np.bool_]:
    correct: NDArray[np.bool_] = np.random.default_rng(seed).random(count) < share
    return correct


@pytest.fixture
def two_runs(tmp_path: Path, stored_run: StoredRun) -> tuple[Path, Path]:
    """Two single runs. The second is significantly worse."""
    first = stored_run(tmp_path, "good", 0, random_correct(0.95, 1), config=PLAIN)
    return first, stored_run(tmp_path, "bad", 0, random_correct(0.7, 2), config=FOCAL)


@pytest.fixture
def groups(tmp_path: Path, stored_run: StoredRun) -> Path:
    """Folder with two recipes of three seeds each, in one experiment."""
    for seed in range(3):
        stored_run(tmp_path, "pets", seed, random_correct(0.9, seed), config=PLAIN, run_id=f"plain-{seed}")
        stored_run(tmp_path, "pets", seed, random_correct(0.9, 10 + seed), config=FOCAL, run_id=f"focal-{seed}")
    return tmp_path


def test_two_runs_are_compared_by_paired_tests(two_runs: tuple[Path, Path]) -> None:
    found = compare_runs(two_runs)
    (pair,) = found.pairs
    first, second = random_correct(0.95, 1), random_correct(0.7, 2)
    assert pair.difference == pytest.approx(first.mean() - second.mean())
    assert (pair.first_only, pair.second_only) == (int((first & ~second).sum()), int((~first & second).sum()))
    assert pair.exact
    assert pair.p == pair.adjusted == mcnemar_exact(pair.first_only, pair.second_only)
    assert (pair.low, pair.high) == paired_bootstrap(first, second)
    assert pair.verdict == "good is better"
    assert pair.sentence.startswith(f"good is better than bad by {100 * pair.difference:.2f} points (95 % interval +")
    (swapped,) = compare_runs(two_runs[::-1]).pairs
    assert swapped.sentence == pair.sentence
    assert found.differences == {"loss/name": ["cross_entropy", "focal"], "loss/gamma": ["—", "2"]}


def test_metrics_of_a_run_are_computed_from_its_predictions(two_runs: tuple[Path, Path]) -> None:
    for run in compare_runs(two_runs).runs:
        predictions = run.run.predictions("test")
        assert run.accuracy == predictions.accuracy
        assert run.nll == pytest.approx(metrics.log_loss(predictions.targets, predictions.probabilities))
        assert 0 < run.ece < 1
        assert run.interval[0] < run.accuracy < run.interval[1]


def test_result_is_independent_of_the_order_of_images_and_classes(
    two_runs: tuple[Path, Path], tmp_path: Path, stored_run: StoredRun
) -> None:
    predictions = RunFolder(two_runs[1]).predictions("test")
    order = np.random.default_rng(0).permutation(len(predictions))
    names = ["emu", "cat", "dog"]
    columns = [predictions.class_names.index(name) for name in names]
    targets = np.array([names.index(predictions.class_names[i]) for i in predictions.targets[order]])
    ids = [predictions.ids[i] for i in order]
    mixed = Predictions(ids, targets, predictions.logits[order][:, columns], names)
    expected = to_dict(compare_runs(two_runs))
    write_predictions(RunFolder(two_runs[1]).predictions_file("test"), mixed)
    (pair,), (before,) = compare_runs(two_runs).pairs, expected["pairs"]
    assert [pair.difference, pair.low, pair.high, pair.p] == [before["difference"], *before["interval"], before["p"]]


def test_runs_that_differ_only_in_the_seed_are_a_group(groups: Path) -> None:
    found = compare_runs([groups])
    assert [(group.name, len(group.runs)) for group in found.groups] == [
        ("pets (loss focal)", 3),
        ("pets (loss cross_entropy)", 3),
    ]
    (pair,) = found.pairs
    first, second = (np.stack([random_correct(0.9, start + seed) for seed in range(3)]) for start in (10, 0))
    expected = difference_over_seeds(first, second)
    assert not pair.exact
    assert (pair.difference, pair.low, pair.high, pair.p) == (
        expected.difference,
        expected.low,
        expected.high,
        expected.p,
    )
    assert pair.verdict == "not distinguishable"
    assert "are not distinguishable: the difference is" in pair.sentence
    assert found.groups[0].accuracy == pytest.approx(first.mean())
    assert found.groups[0].spread == pytest.approx(first.mean(axis=1).std(ddof=1))
    assert pair.first_only == int((first.all(axis=0) & ~second.any(axis=0)).sum())


def test_single_run_against_a_group_is_a_warning_with_its_false_positive_rate(
    tmp_path: Path, stored_run: StoredRun
) -> None:
    runs = [random_correct(0.9, seed) for seed in range(3)]
    for seed, each in enumerate(runs):
        stored_run(tmp_path, "pets", seed, each, config=PLAIN)
    stored_run(tmp_path, "alone", 0, random_correct(0.8, 7), config=FOCAL)
    found = compare_runs([tmp_path])
    spread = 3 * float(np.std([each.mean() for each in runs], ddof=1))
    rate = 100 * estimate_false_positive_rate(np.stack(runs), random_correct(0.8, 7)[None], spread)
    (note,) = [note for note in found.notes if note.startswith("Warning: one run only: alone.")]
    assert f"{100 * spread:.2f} points, 3 times that of pets" in note
    assert f"wrong in {rate:.0f} of 100 comparisons" in note
    (pair,) = found.pairs
    assert pair.sentence.endswith("alone is one run: see the warning about its spread over seeds.")
    assert note in to_markdown(found)
    (equal,) = compare_runs([tmp_path / "pets"], group_by="none").pairs[:1]
    assert "warning" not in equal.sentence


def test_group_by(groups: Path) -> None:
    assert [group.name for group in compare_runs([groups], group_by="loss/name").groups] == ["focal", "cross_entropy"]
    single = compare_runs([groups], group_by="none")
    assert [group.name for group in single.groups][:2] == ["focal-0", "focal-1"]
    assert len(single.pairs) == 15
    assert all(pair.adjusted >= pair.p for pair in single.pairs)
    assert compare_runs([groups], group_by="seed_everything").groups[0].name == "seed_everything 0"
    whole = compare_runs([groups], group_by="experiment")
    assert [(group.name, len(group.runs)) for group in whole.groups] == [("pets", 6)]
    assert whole.pairs == ()
    assert "several runs of the seed 0, 1, 2" in whole.notes[0]
    with pytest.raises(UserError, match=r'--group-by: expected auto.*got "los/name".*Did you mean "loss/name"'):
        compare_runs([groups], group_by="los/name")


def test_runs_of_several_experiments_are_named_by_experiment_and_seed(tmp_path: Path, stored_run: StoredRun) -> None:
    for name in ("a", "b"):
        for seed in (0, 1):
            stored_run(tmp_path, name, seed, random_correct(0.9, seed), config=PLAIN)
    found = compare_runs([tmp_path], group_by="none")
    assert [group.name for group in found.groups] == ["a, seed 0", "a, seed 1", "b, seed 0", "b, seed 1"]


def test_folder_specifies_its_finished_runs(groups: Path, stored_run: StoredRun) -> None:
    update_summary(groups / "pets" / "plain-2", {"status": "interrupted"})
    found = compare_runs([groups, groups / "pets" / "plain-0"])
    assert len(found.runs) == 5
    assert "Excluded unfinished runs: 1 (plain-2)." in found.notes
    named = compare_runs([groups / "pets" / "plain-2", groups / "pets" / "focal-0"])
    assert "pets/plain-2 is not finished: interrupted." in named.notes


def test_different_images_require_shared(tmp_path: Path, stored_run: StoredRun) -> None:
    correct = random_correct(0.8, 3, 90)
    ids = [f"image/{i:04d}.png" for i in range(30, 90)]
    first = stored_run(tmp_path, "all", 0, correct)
    second = stored_run(tmp_path, "some", 0, correct[30:], ids=ids, targets=np.arange(90)[30:] % 3)
    with pytest.raises(UserError, match=r"60 and 90, of which 60 are common.*--shared compares the runs on these"):
        compare_runs([first, second])
    found = compare_runs([first, second], shared=True)
    assert found.images.ids == ids
    assert found.pairs[0].difference == 0
    assert "60 common images of all runs. 30 others are excluded" in found.notes[0]
    third = stored_run(tmp_path, "none", 0, correct[:3], ids=["x", "y", "z"])
    with pytest.raises(UserError, match="cannot be compared"):
        compare_runs([first, third])
    with pytest.raises(UserError, match="at least 2 common test images, got 0 of 93"):
        compare_runs([first, third], shared=True)


def test_runs_that_do_not_match_are_rejected(
    two_runs: tuple[Path, Path], tmp_path: Path, stored_run: StoredRun
) -> None:
    correct = random_correct(0.9, 0)
    fish = stored_run(tmp_path, "fish", 0, correct, class_names=["cat", "dog", "fish"])
    with pytest.raises(UserError, match=r"Only in the first: fish\. Only in the second: emu"):
        compare_runs([two_runs[0], fish])
    relabelled = stored_run(tmp_path, "relabelled", 0, correct, targets=np.r_[1, np.arange(1, 300) % 3])
    with pytest.raises(UserError, match=r"other labels of 1 images\. image/0000\.png is dog, not cat"):
        compare_runs([two_runs[0], relabelled])
    validated = stored_run(tmp_path, "validated", 0, correct, split="val")
    with pytest.raises(UserError, match=r"no predictions on test, only on val \(--split val\)"):
        compare_runs([two_runs[0], validated])
    twice = stored_run(tmp_path, "twice", 0, correct, ids=["a"] * 300)
    with pytest.raises(UserError, match="expected every id once, got duplicate ids"):
        compare_runs([two_runs[0], twice])
    for paths, message in (
        ([two_runs[0]], "at least 2 runs, got 1"),
        ([two_runs[0], two_runs[0]], "got 1"),
        ([tmp_path / "x"], "found"),
    ):
        with pytest.raises(UserError, match=message):
            compare_runs(paths)
    with pytest.raises(UserError, match='expected test, val or evaluations/NAME, got "train"'):
        compare_runs(two_runs, split="train")
    for path in two_runs:
        update_summary(path, {"status": "failed"})
    with pytest.raises(UserError, match="expected a finished run in it, got 1 unfinished"):
        compare_runs([two_runs[0].parent])


def test_non_finite_logits_count_as_incorrect_with_a_note(two_runs: tuple[Path, Path]) -> None:
    run = RunFolder(two_runs[0])
    predictions = run.predictions("test")
    logits = predictions.logits.copy()
    logits[:10] = np.nan
    write_predictions(
        run.predictions_file("test"), Predictions(predictions.ids, predictions.targets, logits, predictions.class_names)
    )
    found = compare_runs(two_runs)
    assert found.runs[0].accuracy == pytest.approx(random_correct(0.95, 1)[10:].sum() / 300)
    assert np.isnan(found.runs[0].nll)
    assert found.groups[0].mean("nll") is None
    assert "the logits of 10 images are not finite" in found.notes[0]


def test_json_and_markdown_contain_the_results(groups: Path) -> None:
    found = compare_runs([groups])
    plain = json.loads(json.dumps(to_dict(found), allow_nan=False))
    assert plain["pairs"][0]["p_holm"] == found.pairs[0].adjusted
    assert plain["groups"][0]["accuracy"] == found.groups[0].accuracy
    assert len(plain["groups"][1]["runs"]) == 3
    text = to_markdown(found)
    assert f"{100 * found.groups[0].accuracy:.2f} %" in text
    assert found.pairs[0].sentence in text
    assert found._repr_markdown_() == text
    assert repr(found).startswith("<Comparison on 300 test images: pets (loss focal")


def test_custom_metric_has_a_column_with_its_mean(tmp_path: Path, stored_run: StoredRun) -> None:
    for seed in range(2):
        for name in ("a", "b"):
            summary = {"test": {"acc": 0.5, "loss": 1.0, "mine": 0.25 + seed / 2}}
            stored_run(tmp_path, name, seed, random_correct(0.8, seed), summary=summary)
    found = compare_runs([tmp_path])
    assert "mine" in group_columns(found.groups)
    assert [group.mean("mine") for group in found.groups] == [0.5, 0.5]
    assert "| mine |" in to_markdown(found)
    assert to_dict(found)["groups"][0]["mine"] == 0.5
