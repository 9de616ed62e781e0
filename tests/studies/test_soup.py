"""Model soups: mathematics, selection, run folder, and models that cannot be averaged."""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import re
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import imgrec
import imgrec.studies.soup.soup as study
from imgrec.cli.main import main
from imgrec.errors import UserError
from imgrec.export import read_model_folder
from imgrec.optim.averaging import mean_state
from imgrec.reports.soup_section import soup_notes
from imgrec.runs.data import load_run_data
from imgrec.runs.evaluation import predict_split, unit_images
from imgrec.runs.folder import RunFolder
from imgrec.runs.predictions import Predictions
from imgrec.runs.summary import update_summary
from imgrec.stats.paired import paired_bootstrap
from imgrec.studies.soup.candidates import check_candidates, load_candidates, shared_data
from imgrec.studies.soup.soup import Soup, greedy_soup, moving_statistics, update_batch_norm
from imgrec.studies.soup.sparsity import lost_zeros, share_of_zeros
from tests.conftest import TINY, Cli


@pytest.fixture(scope="module")
def kitchen(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/tiny/seed-0 to seed-2, fine-tuned from one model, and runs that cannot be averaged."""
    place = tmp_path_factory.mktemp("kitchen")
    (place / "tiny.yaml").write_text(TINY)
    recipes = {
        **{f"seed-{i}": (f"--seed_everything={i}", f"--model.optimizer.lr={0.002 * (i + 1)}") for i in range(3)},
        "dropped": ("--model.head={name: linear, dropout: 0.2}", "--evaluate_after_fit=false"),
        "other-split": ("--data.split_seed=1", "--evaluate_after_fit=false"),
    }
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.chdir(place)
        for name, words in recipes.items():
            start = () if name == "dropped" else (f"--model.init_from={trained}",)
            assert main(["fit", "--config", "tiny.yaml", "--trainer.max_epochs=1", *start, *words]) == 0
            (made,) = (path for path in (place / "runs" / "tiny").iterdir() if re.match(r"\d{8}", path.name))
            made.rename(made.with_name(name))
    return place


@pytest.fixture
def runs(kitchen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder of the experiment in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(kitchen / "runs", tmp_path / "runs")
    return Path("runs/tiny")


def three(runs: Path) -> list[Path]:
    return [runs / f"seed-{i}" for i in range(3)]


def below(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*")}


# ---------------------------------------------------------------- masks


def test_zeros_lost_by_different_masks_are_reported(runs: Path) -> None:
    lines: list[str] = []
    soup = Soup(three(runs), "uniform", batch_norm=0, report=lines.append)
    for i, each in enumerate(soup.candidates):
        for value in each.state.values():
            if value.ndim > 1:
                value.view(-1)[i % 2 :: 2] = 0
    run = soup.run()
    zeros = run.summary["soup"]["zeros"]
    assert zeros["networks"] == pytest.approx(0.5, abs=0.01)
    assert zeros["soup"] < 0.01
    note = next(line for line in lines if line.startswith("Zeros are lost: 50.0 % of the weights of a model are zero"))
    assert note in soup_notes(run)


def test_zeros_of_equal_masks_are_kept() -> None:
    states = [{"weight": torch.tensor([[0.0, 0.0, value]]), "bias": torch.zeros(1)} for value in (1.0, 2.0)]
    assert share_of_zeros(mean_state(states)) == pytest.approx(2 / 3)
    assert lost_zeros(states, mean_state(states)) is None
    other = [states[0], {"weight": torch.tensor([[1.0, 0.0, 0.0]]), "bias": torch.zeros(1)}]
    assert lost_zeros(other, mean_state(other)) == pytest.approx({"networks": 2 / 3, "soup": 1 / 3})


# ---------------------------------------------------------------- selection


def test_a_greedy_soup_equals_that_of_the_paper_for_random_scores() -> None:
    draw = random.Random(0)
    for _ in range(50):
        worth = {
            frozenset(some): draw.random() for size in range(1, 6) for some in itertools.combinations(range(5), size)
        }
        order = sorted(range(5), key=lambda i: -worth[frozenset([i])])
        soup: set[int] = set()  # recipe 1 of the paper, from the empty soup on
        for i in order:
            if not soup or worth[frozenset(soup | {i})] >= worth[frozenset(soup)]:
                soup |= {i}
        kept = greedy_soup(order, lambda some, worth=worth: worth[frozenset(some)])  # type: ignore[misc]
        assert set(kept) == soup
        assert worth[frozenset(kept)] >= max(worth[frozenset([i])] for i in range(5))


def test_a_candidate_with_an_equal_score_is_added() -> None:
    assert greedy_soup([1, 0], lambda some: 0.5) == [1, 0]


# ---------------------------------------------------------------- statistics of batch normalization


def test_statistics_are_the_means_of_those_of_the_batches() -> None:
    torch.manual_seed(0)
    network: Any = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2))
    frozen = network[3].running_mean.clone().fill_(7.0)
    network[3].running_mean.copy_(frozen)
    batches = list(torch.randn(3, 16, 1, 8, 8))
    update_batch_norm(network, {"1": network[1]}, iter(batches))
    seen = [network[0](batch).detach() for batch in batches]
    assert torch.allclose(network[1].running_mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0), atol=1e-5)
    assert torch.allclose(network[1].running_var, torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0), atol=1e-5)
    assert torch.equal(network[3].running_mean, frozen)


def test_equal_statistics_are_not_updated() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    one = {name: value.clone() for name, value in network.state_dict().items()}
    other = {**one, "1.running_var": one["1.running_var"] + 1}
    assert list(moving_statistics(network, [one, other])) == ["1"]
    assert moving_statistics(network, [one, one]) == {}


# ---------------------------------------------------------------- the run folder


def test_a_uniform_soup_is_the_mean_of_all_weights_in_a_run_folder(runs: Path, cli: Cli) -> None:
    shutil.copytree(runs, "runs2/tiny")
    given = [path for path in Path("runs2/tiny").iterdir() if path.name.startswith("seed")]
    done = cli("soup", *given, "--method", "uniform")
    assert done.returncode == 0, done.stderr
    (soup,) = (RunFolder(path) for path in Path("runs2/tiny/soups/uniform").iterdir())
    loaded = read_model_folder(soup.model_folder)
    mine = loaded.classifier.state_dict()
    theirs = [read_model_folder(path / "model").classifier.state_dict() for path in given]
    for name, value in mine.items():
        if "running" not in name and "num_batches" not in name:
            expected = np.mean([state[name].double().numpy() for state in theirs], axis=0)
            assert np.allclose(value.numpy(), expected, atol=1e-6), name
    moved = [name for name in mine if "running" in name]
    assert moved
    assert not any(torch.allclose(mine[name], torch.stack([s[name] for s in theirs]).mean(0)) for name in moved)

    # metrics and predictions are those of the model
    data = load_run_data(soup)
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        stored = soup.predictions(split)
        logits: dict[str, Any] = {}
        for batch in loader:
            found = loaded.classifier(torch.from_numpy(unit_images(batch))).detach().numpy()
            logits |= dict(zip(batch.ids, found, strict=True))
        assert set(stored.ids) == set(logits)
        assert np.allclose(stored.logits, [logits[name] for name in stored.ids], atol=1e-4)
        assert soup.summary[split]["acc"] == pytest.approx(stored.accuracy)

    # the intervals are those of a comparison
    rows = soup.summary["soup"]["ingredients"]
    for path, row in zip(given, rows, strict=True):
        ours, before = soup.predictions("test"), RunFolder(path).predictions("test")
        assert before.ids == ours.ids
        right = [each.predicted == each.targets for each in (ours, before)]
        low, high = paired_bootstrap(*right)
        pair = row["splits"]["test"]
        assert (pair["low"], pair["high"]) == pytest.approx((low, high))
        assert pair["accuracy"] == pytest.approx(before.accuracy)
        assert row["kept"]
    best = max(rows, key=lambda row: row["splits"]["val"]["accuracy"])
    assert best["best"]
    assert soup.parent == (Path("runs2") / best["name"]).resolve()
    assert soup.summary["status"] == "finished"
    assert "The soup and its models" in soup.report.read_text()
    assert "uniform soup" in done.stdout

    # the same soup is not made again, and other commands accept it as a run
    before_again = below(Path("runs2"))
    assert "is finished" in cli("soup", *given, "--method", "uniform").stdout
    assert below(Path("runs2")) == before_again
    assert cli("compare", soup.path, given[0]).returncode == 0
    assert "soups/uniform" in cli("runs", "runs2").stdout
    assert imgrec.load(soup, device="cpu").facts == loaded.facts


def test_statistics_can_be_averaged(runs: Path) -> None:
    soup = imgrec.soup_runs(*three(runs)[:2], method="uniform", batch_norm=0)
    mine = read_model_folder(soup.model_folder).classifier.state_dict()
    theirs = [read_model_folder(path / "model").classifier.state_dict() for path in three(runs)[:2]]
    for name in (name for name in mine if "running" in name):
        assert torch.allclose(mine[name], (theirs[0][name] + theirs[1][name]) / 2, atol=1e-6)


@pytest.mark.slow
def test_a_greedy_soup_is_selected_on_validation_images_only(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random predictions on the test split do not change the selection."""
    lines: list[str] = []
    honest = Soup(three(runs), batch_norm=128, report=lines.append).run()
    scores = [float(line.split()[1]) for line in lines if line.startswith("validation")]
    kept = [row["name"] for row in honest.summary["soup"]["ingredients"] if row["kept"]]
    assert len(scores) == 5  # three single models, and two additions to the best
    assert round(100 * honest.summary["val"]["acc"], 2) in scores
    assert honest.summary["val"]["acc"] >= max(
        row["splits"]["val"]["accuracy"] for row in honest.summary["soup"]["ingredients"]
    )
    before = honest.summary
    shutil.rmtree(runs / "soups")
    real = predict_split

    def random_predictions(data: Any, split: Any, network: Any) -> Predictions | None:
        found = real(data, split, network)
        if found is None or split == "val":
            return found
        drawn = np.random.default_rng(zlib.crc32(found.logits.tobytes())).normal(size=found.logits.shape)
        return Predictions(found.ids, found.targets, drawn, found.class_names)

    monkeypatch.setattr(study, "predict_split", random_predictions)
    blind = Soup(three(runs), batch_norm=128, report=lambda line: None).run()
    assert [row["name"] for row in blind.summary["soup"]["ingredients"] if row["kept"]] == kept
    assert blind.summary["val"] == before["val"]
    assert blind.summary["test"] != before["test"]


def test_the_checkpoints_of_a_run_and_the_folder_of_an_experiment(runs: Path, cli: Cli) -> None:
    points = [runs / "seed-0" / "checkpoints" / "best.ckpt", runs / "seed-1" / "checkpoints" / "last.ckpt"]
    soup = imgrec.soup_runs(*points, method="uniform", batch_norm=0)
    assert [row["name"] for row in soup.summary["soup"]["ingredients"]] == [
        "tiny/seed-0 best.ckpt",
        "tiny/seed-1 last.ckpt",
    ]
    for name in ("dropped", "other-split"):
        shutil.rmtree(runs / name)
    assert [each.name for each in load_candidates([runs])] == [f"tiny/seed-{i}" for i in range(3)]  # not the soup


@pytest.mark.slow
def test_a_dropout_of_the_training_does_not_prevent_a_soup(runs: Path, cli: Cli) -> None:
    done = cli("soup", runs / "dropped", runs / "seed-0", "--method", "uniform", "--batch-norm", "0")
    assert done.returncode == 0, done.stderr  # dropout affects the training only
    assert "in the soup" in done.stdout


# ---------------------------------------------------------------- errors, after which no file was changed


def changed(run: Path, *changes: tuple[str, str, str]) -> None:
    for file, before, after in changes:
        path = run / file
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))


def test_models_that_cannot_be_averaged_raise_with_their_difference(runs: Path, cli: Cli) -> None:
    first = runs / "seed-0"

    def refused(message: str, *given: Path | str) -> None:
        before = below(Path())
        done = cli("soup", *given)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert re.search(message, done.stderr), done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert below(Path()) == before

    refused("expected two models or more, got 1", first)
    refused("got the same model in", first, first)
    refused("run folder not found", first, "nowhere")
    refused(r"other-split was trained on \d+ of the (test|validation) images of .*seed-0", first, runs / "other-split")
    shutil.copy(first / "checkpoints" / "best.ckpt", "alone.ckpt")
    refused("expected a checkpoint in a run folder, .* got alone.ckpt", first, "alone.ckpt")
    refused("batch-norm: expected int >= 0, got -1", first, runs / "seed-1", "--batch-norm=-1")

    other = runs / "seed-1"
    model = other / "model" / "config.json"
    whole = model.read_text()
    for before, after, message in (
        (
            '"stem_width": 8',
            '"stem_width": 16',
            "`stem_width` of the backbone is 8 in|do not fit|shape",
        ),
        ('"image_size": 16', '"image_size": 24', "the side of the images is 16 in the first and 24 in the second"),
        ('"0",', '"zero",', "the list of classes is"),
    ):
        model.write_text(whole.replace(before, after))
        refused(message, first, other)
    model.write_text(whole)
    update_summary(other, {"status": "interrupted"})
    refused(r"\(status: interrupted\)\. Run: imgrec resume", first, other)


def test_another_argument_with_the_same_tensors_raises(runs: Path) -> None:
    one, other = load_candidates(three(runs)[:2])
    backbone = {**one.loaded.specs.backbone, "act_layer": "silu"}  # type: ignore[dict-item]
    specs = replace(one.loaded.specs, backbone=backbone)
    other.__dict__["loaded"] = other.loaded._replace(specs=specs)
    with pytest.raises(UserError, match="`act_layer` of the backbone is — in the first and silu in the second"):
        check_candidates([one, other])


def test_the_data_is_read_once_for_runs_of_one_recipe(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import imgrec.studies.soup.candidates as module

    read: list[Path] = []

    def noted(run: RunFolder) -> Any:
        read.append(run.path)
        return load_run_data(run)

    monkeypatch.setattr(module, "load_run_data", noted)
    data = shared_data(load_candidates(three(runs)))
    assert read == [runs / "seed-0"]
    assert data.split_sizes()["val"] > 0


def test_an_explicit_default_is_no_difference(runs: Path) -> None:
    one, other = load_candidates(three(runs)[:2])
    for head in ({"name": "linear", "dropout": 0.0}, {"name": "linear", "dropout": 0.4}):
        other.__dict__["loaded"] = other.loaded._replace(specs=replace(one.loaded.specs, head=head))
        check_candidates([one, other])
    other.__dict__["loaded"] = other.loaded._replace(specs=replace(one.loaded.specs, head="cosine"))
    with pytest.raises(UserError, match="because the head is linear in the first and cosine in the second"):
        check_candidates([one, other])


def test_a_soup_that_cannot_be_written_leaves_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    before = {name for name in below(Path()) if "." in name}
    monkeypatch.setattr("imgrec.studies.soup.soup.save_model_folder", full)
    with pytest.raises(UserError, match=r"soups/uniform.* cannot be written \(No space left"):
        imgrec.soup_runs(*three(runs), method="uniform", batch_norm=0)
    assert {name for name in below(Path()) if "." in name} == before


@pytest.mark.parametrize("method", ["best", ""])
def test_an_unknown_method(runs: Path, method: Any) -> None:
    with pytest.raises(UserError, match="method"):
        imgrec.soup_runs(*three(runs), method=method)
