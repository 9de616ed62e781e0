from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from imgrec.compare.comparison import compare_runs
from imgrec.compare.text import as_markdown, as_plain, group_columns
from imgrec.errors import UserError
from imgrec.runs.folder import RunFolder
from imgrec.runs.predictions import Predictions, write_predictions
from imgrec.runs.summary import update_summary
from imgrec.stats.paired import mcnemar_exact, paired_bootstrap
from imgrec.stats.seeds import difference_over_seeds, estimate_false_positive_rate

StoredRun = Callable[..., Path]
PLAIN = {"loss": "cross_entropy"}
FOCAL = {"loss": {"name": "focal", "gamma": 2.0}}


def right(share: float, seed: int, count: int = 300) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.random.default_rng(seed).random(count) < share
    return found


@pytest.fixture
def two(tmp_path: Path, stored_run: StoredRun) -> tuple[Path, Path]:
    """Two single runs, the second clearly worse."""
    first = stored_run(tmp_path, "good", 0, right(0.95, 1), config=PLAIN)
    return first, stored_run(tmp_path, "bad", 0, right(0.7, 2), config=FOCAL)


@pytest.fixture
def groups(tmp_path: Path, stored_run: StoredRun) -> Path:
    """Two recipes with three seeds each, in one experiment."""
    for seed in range(3):
        stored_run(tmp_path, "pets", seed, right(0.9, seed), config=PLAIN, run_id=f"plain-{seed}")
        stored_run(tmp_path, "pets", seed, right(0.9, 10 + seed), config=FOCAL, run_id=f"focal-{seed}")
    return tmp_path


def test_two_runs_are_tested_image_by_image(two: tuple[Path, Path]) -> None:
    found = compare_runs(two)
    (pair,) = found.pairs
    first, second = right(0.95, 1), right(0.7, 2)
    assert pair.difference == pytest.approx(first.mean() - second.mean())
    assert (pair.first_only, pair.second_only) == (int((first & ~second).sum()), int((~first & second).sum()))
    assert pair.exact
    assert pair.p == pair.adjusted == mcnemar_exact(pair.first_only, pair.second_only)
    assert (pair.low, pair.high) == paired_bootstrap(first, second)
    assert pair.verdict == "good is better"
    assert pair.sentence.startswith(f"good is better than bad by {100 * pair.difference:.2f} points (95 % interval +")
    (turned,) = compare_runs(two[::-1]).pairs
    assert turned.sentence == pair.sentence
    assert found.differences == {"loss/name": ["cross_entropy", "focal"], "loss/gamma": ["—", "2"]}


def test_the_figures_of_a_run_are_those_of_its_predictions(two: tuple[Path, Path]) -> None:
    for run in compare_runs(two).runs:
        said = run.run.predictions("test")
        assert run.accuracy == said.accuracy
        assert run.nll == pytest.approx(metrics.log_loss(said.targets, said.probabilities))
        assert 0 < run.ece < 1
        assert run.interval[0] < run.accuracy < run.interval[1]


def test_the_order_of_images_and_of_classes_plays_no_part(
    two: tuple[Path, Path], tmp_path: Path, stored_run: StoredRun
) -> None:
    said = RunFolder(two[1]).predictions("test")
    order = np.random.default_rng(0).permutation(len(said))
    names = ["emu", "cat", "dog"]
    columns = [said.class_names.index(name) for name in names]
    targets = np.array([names.index(said.class_names[i]) for i in said.targets[order]])
    ids = [said.ids[i] for i in order]
    mixed = Predictions(ids, targets, said.logits[order][:, columns], names)
    expected = as_plain(compare_runs(two))
    write_predictions(RunFolder(two[1]).predictions_file("test"), mixed)
    (pair,), (before,) = compare_runs(two).pairs, expected["pairs"]
    assert [pair.difference, pair.low, pair.high, pair.p] == [before["difference"], *before["interval"], before["p"]]


def test_runs_that_differ_in_the_seed_only_are_a_group(groups: Path) -> None:
    found = compare_runs([groups])
    assert [(group.name, len(group.runs)) for group in found.groups] == [
        ("pets (loss focal)", 3),
        ("pets (loss cross_entropy)", 3),
    ]
    (pair,) = found.pairs
    first, second = (np.stack([right(0.9, start + seed) for seed in range(3)]) for start in (10, 0))
    said = difference_over_seeds(first, second)
    assert not pair.exact
    assert (pair.difference, pair.low, pair.high, pair.p) == (said.difference, said.low, said.high, said.p)
    assert pair.verdict == "not distinguishable"
    assert "are not distinguishable: the difference is" in pair.sentence
    assert found.groups[0].accuracy == pytest.approx(first.mean())
    assert found.groups[0].spread == pytest.approx(first.mean(axis=1).std(ddof=1))
    assert pair.first_only == int((first.all(axis=0) & ~second.any(axis=0)).sum())


def test_a_group_against_a_single_run_is_a_warning_with_its_rate(tmp_path: Path, stored_run: StoredRun) -> None:
    runs = [right(0.9, seed) for seed in range(3)]
    for seed, each in enumerate(runs):
        stored_run(tmp_path, "pets", seed, each, config=PLAIN)
    stored_run(tmp_path, "alone", 0, right(0.8, 7), config=FOCAL)
    found = compare_runs([tmp_path])
    spread = 3 * float(np.std([each.mean() for each in runs], ddof=1))
    rate = 100 * estimate_false_positive_rate(np.stack(runs), right(0.8, 7)[None], spread)
    (note,) = [note for note in found.notes if note.startswith("Warning: one run only: alone.")]
    assert f"{100 * spread:.2f} points, 3 times as much as pets" in note
    assert f"would be wrong in {rate:.0f}. Train more seeds" in note
    (pair,) = found.pairs
    assert pair.sentence.endswith("alone is one run: see the warning on its spread over seeds.")
    assert note in as_markdown(found)
    (equal,) = compare_runs([tmp_path / "pets"], group_by="none").pairs[:1]
    assert "warning" not in equal.sentence


def test_groups_on_request(groups: Path) -> None:
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
    with pytest.raises(UserError, match=r'no run has a column "los/name".*Did you mean "loss/name"'):
        compare_runs([groups], group_by="los/name")


def test_runs_of_other_experiments_are_called_by_experiment_and_seed(tmp_path: Path, stored_run: StoredRun) -> None:
    for name in ("a", "b"):
        for seed in (0, 1):
            stored_run(tmp_path, name, seed, right(0.9, seed), config=PLAIN)
    found = compare_runs([tmp_path], group_by="none")
    assert [group.name for group in found.groups] == ["a, seed 0", "a, seed 1", "b, seed 0", "b, seed 1"]


def test_a_folder_stands_for_its_finished_runs(groups: Path, stored_run: StoredRun) -> None:
    update_summary(groups / "pets" / "plain-2", {"status": "interrupted"})
    found = compare_runs([groups, groups / "pets" / "plain-0"])
    assert len(found.runs) == 5
    assert "Left out, since not finished: 1 (plain-2)." in found.notes
    named = compare_runs([groups / "pets" / "plain-2", groups / "pets" / "focal-0"])
    assert "pets/plain-2 is not finished: interrupted." in named.notes


def test_other_images_are_refused_or_the_shared_ones_taken(tmp_path: Path, stored_run: StoredRun) -> None:
    answers = right(0.8, 3, 90)
    ids = [f"image/{i:04d}.png" for i in range(30, 90)]
    first = stored_run(tmp_path, "all", 0, answers)
    second = stored_run(tmp_path, "some", 0, answers[30:], ids=ids, targets=np.arange(90)[30:] % 3)
    with pytest.raises(UserError, match=r"60 and 90, of which they share 60.*--shared compares on those"):
        compare_runs([first, second])
    found = compare_runs([first, second], shared=True)
    assert found.images.ids == ids
    assert found.pairs[0].difference == 0
    assert "60 images that all runs share; 30 more are left out" in found.notes[0]
    third = stored_run(tmp_path, "none", 0, answers[:3], ids=["x", "y", "z"])
    with pytest.raises(UserError, match="nothing to compare them on"):
        compare_runs([first, third])
    with pytest.raises(UserError, match="share 0 of the 93 test images"):
        compare_runs([first, third], shared=True)


def test_what_cannot_be_compared_is_refused(two: tuple[Path, Path], tmp_path: Path, stored_run: StoredRun) -> None:
    answers = right(0.9, 0)
    fish = stored_run(tmp_path, "fish", 0, answers, class_names=["cat", "dog", "fish"])
    with pytest.raises(UserError, match="Only the first: fish; only the second: emu"):
        compare_runs([two[0], fish])
    relabelled = stored_run(tmp_path, "relabelled", 0, answers, targets=np.r_[1, np.arange(1, 300) % 3])
    with pytest.raises(UserError, match=r"labels of 1 images: image/0000\.png is dog here and cat there"):
        compare_runs([two[0], relabelled])
    validated = stored_run(tmp_path, "validated", 0, answers, split="val")
    with pytest.raises(UserError, match=r"no predictions on test; it has some on val \(--split val\)"):
        compare_runs([two[0], validated])
    twice = stored_run(tmp_path, "twice", 0, answers, ids=["a"] * 300)
    with pytest.raises(UserError, match="expected each id once, got one several times"):
        compare_runs([two[0], twice])
    for given, said in (
        ([two[0]], "two runs or more, got 1"),
        ([two[0], two[0]], "got 1"),
        ([tmp_path / "x"], "found"),
    ):
        with pytest.raises(UserError, match=said):
            compare_runs(given)
    with pytest.raises(UserError, match='expected test, val or evaluations/NAME, got "train"'):
        compare_runs(two, split="train")
    for path in two:
        update_summary(path, {"status": "failed"})
    with pytest.raises(UserError, match="none of the 1 runs below it is finished"):
        compare_runs([two[0].parent])


def test_diverged_logits_count_as_wrong_and_are_named(two: tuple[Path, Path]) -> None:
    run = RunFolder(two[0])
    said = run.predictions("test")
    logits = said.logits.copy()
    logits[:10] = np.nan
    write_predictions(run.predictions_file("test"), Predictions(said.ids, said.targets, logits, said.class_names))
    found = compare_runs(two)
    assert found.runs[0].accuracy == pytest.approx(right(0.95, 1)[10:].sum() / 300)
    assert np.isnan(found.runs[0].nll)
    assert found.groups[0].mean("nll") is None
    assert "the logits of 10 images are not finite" in found.notes[0]


def test_json_and_markdown_say_the_same(groups: Path) -> None:
    found = compare_runs([groups])
    plain = json.loads(json.dumps(as_plain(found), allow_nan=False))
    assert plain["pairs"][0]["p_holm"] == found.pairs[0].adjusted
    assert plain["groups"][0]["accuracy"] == found.groups[0].accuracy
    assert len(plain["groups"][1]["runs"]) == 3
    text = as_markdown(found)
    assert f"{100 * found.groups[0].accuracy:.2f} %" in text
    assert found.pairs[0].sentence in text
    assert found._repr_markdown_() == text
    assert repr(found).startswith("<Comparison on 300 test images: pets (loss focal")


def test_a_metric_of_ones_own_has_a_column_and_is_a_mean_over_the_runs(tmp_path: Path, stored_run: StoredRun) -> None:
    for seed in range(2):
        for name in ("a", "b"):
            own = {"test": {"acc": 0.5, "loss": 1.0, "mine": 0.25 + seed / 2}}
            stored_run(tmp_path, name, seed, right(0.8, seed), summary=own)
    found = compare_runs([tmp_path])
    assert "mine" in group_columns(found.groups)
    assert [group.mean("mine") for group in found.groups] == [0.5, 0.5]
    assert "| mine |" in as_markdown(found)
    assert as_plain(found)["groups"][0]["mine"] == 0.5
