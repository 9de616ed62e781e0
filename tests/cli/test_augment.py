"""`imgrec augment`, and `--tta` on the command line."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image


def test_the_picture_has_a_row_an_epoch_and_one_of_originals(cli: Any, tiny: Path, tmp_path: Path) -> None:
    sizes = []
    for rows in (1, 3):
        arguments = ["augment", tiny, "--out", "seen.png", "--columns", "4", "--rows", rows]
        ended = cli(*arguments, "--data.train_transforms", "[resize, random_crop, mixup_or_cutmix]")
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.strip() == "seen.png"
        with Image.open(tmp_path / "seen.png") as picture:
            sizes.append(picture.size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] == 2 * sizes[0][1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "0"], "--rows: expected int > 0, got 0"),
        (["--out", "seen.bmp"], "--out: expected a file name that ends in .png"),
        (["--progress", "2"], "--progress: expected float in [0, 1], got 2"),
        (
            ["--data.train_transforms", "[hflip, resize]"],
            "data.train_transforms[1]: expected transforms of single images",
        ),
        (["--data.train_transforms", "cifr"], 'data.train_transforms: no augmentation is called "cifr"'),
    ],
)
def test_invalid_argument_is_one_error(cli: Any, tiny: Path, arguments: list[str], message: str) -> None:
    ended = cli("augment", tiny, *arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_missing_config_is_one_error(cli: Any) -> None:
    assert "augment: expected a config" in cli("augment").stderr


def test_test_looks_at_further_views_and_leaves_the_run(cli: Any, trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    ended = cli("test", trained, "--tta", "[hflip, five_crop]")
    assert ended.returncode == 0, ended.stderr
    assert "accuracy" in ended.stdout
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    wrong = cli("test", trained, "--tta", "hflp")
    assert wrong.returncode == 2
    assert 'Did you mean "hflip"' in wrong.stderr
    assert "--tta: expected imgrec test" in cli("validate", trained, "--tta", "hflip").stderr


def test_predict_looks_at_further_views(cli: Any, trained: Path, tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    Image.fromarray(pixels.flip(1).contiguous().numpy()).save(tmp_path / "b.png")
    tops = {}
    for arguments in ((), ("--tta", "hflip"), ("--tta", "hflip", "--tta_average", "logits")):
        ended = cli("predict", trained, "a.png", "b.png", "--out", "out.csv", "--top", "10", *arguments)
        assert ended.returncode == 0, ended.stderr
        with (tmp_path / "out.csv").open() as file:
            rows = list(csv.DictReader(file))
        tops[arguments] = [{row[f"class_{k}"]: float(row[f"probability_{k}"]) for k in range(1, 11)} for row in rows]
    plain, mean, _ = tops.values()
    for name, p in mean[0].items():  # an image and its mirror image get the same answer: the mean of the two
        assert abs(p - mean[1][name]) < 1e-5
        assert abs(p - (plain[0][name] + plain[1][name]) / 2) < 1e-5
    assert tops["--tta", "hflip", "--tta_average", "logits"] != mean
