from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision.transforms.functional import to_pil_image

import imgrec
from imgrec.engine.evaluation.predict_inputs import find_images

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
COUNT = 6


@pytest.fixture
def images(trained: Path, tmp_path: Path) -> dict[str, str]:
    """Test images of the run as PNG files, in a folder and one below it: path to id."""
    data = imgrec.ImageDataModule(source="digits", channels=1, image_size=16)
    data.setup()
    found = {}
    for number, row in enumerate(data.splits.test[:COUNT]):
        name = data.source.ids[row]
        (image,) = data.load_images([name])
        assert image is not None
        path = Path("images") / ("below" if number % 2 else "") / f"{number}.png"
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(image).save(tmp_path / path)
        found[str(path)] = name
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return found


def test_predictions_equal_test_predictions(cli: Cli, trained: Path, images: dict[str, str]) -> None:
    done = cli("predict", trained, *images, "--top", "2")
    assert done.returncode == 0, done.stderr
    predictions = imgrec.RunFolder(trained).predictions("test")
    rows = {name: row for row, name in enumerate(predictions.ids)}
    lines = done.stdout.splitlines()
    assert len(lines) == COUNT
    for line, (path, name) in zip(lines, images.items(), strict=True):
        probabilities = predictions.probabilities[rows[name]]
        best = np.argsort(-probabilities, kind="stable")[:2]
        expected = ", ".join(f"{predictions.class_names[i]} {probabilities[i]:.4f}" for i in best)
        assert line == f"{path}: {expected}"


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["images"], COUNT),
        (["images/*.png"], COUNT // 2),
        (["images/**/*.png"], COUNT),
        (["images", "images/0.png", "images/*.png"], COUNT),
        (["images/0.png", "images/below"], 1 + COUNT // 2),
    ],
)
def test_files_folders_and_globs(
    arguments: list[str], count: int, cli: Cli, trained: Path, images: dict[str, str]
) -> None:
    done = cli("predict", trained, *arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == count
    assert len({line.partition(": ")[0] for line in lines}) == count
    one = "1 file is no image by its ending, and is skipped: .txt (1)"
    assert (one in done.stderr) is ("images" in arguments)


@pytest.mark.parametrize("target", ["run", "checkpoint", "checkpoint alone", "model folder"])
def test_all_forms_of_model_argument(
    target: str, cli: Cli, trained: Path, images: dict[str, str], tmp_path: Path
) -> None:
    alone = shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    where = {
        "run": trained,
        "checkpoint": trained / "checkpoints" / "best.ckpt",
        "checkpoint alone": alone,
        "model folder": trained / "model",
    }[target]
    assert cli("predict", where, "images").stdout == cli("predict", trained, "images").stdout != ""


def test_csv_and_json_lines_are_equal(cli: Cli, trained: Path, images: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "images" / "broken.png").write_bytes(b"")
    for name in ("out/found.csv", "out/found.jsonl"):
        done = cli("predict", trained, "images", "--out", name, "--top", "3", "--batch_size", "4")
        assert done.returncode == 4
        assert done.stdout == f"{COUNT + 1} images -> {name}\n"
        assert "images/broken.png: cannot be read: the file is empty\n" in done.stderr
        assert f"1 of {COUNT + 1} images could not be read. The results of the others" in done.stderr
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "found.csv").read_text())))
    lines = [json.loads(line) for line in (tmp_path / "out" / "found.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [line["path"] for line in lines]
    assert sorted(row["path"] for row in rows) == sorted([*images, "images/broken.png"])
    for row, line in zip(rows, lines, strict=True):
        if row["path"] == "images/broken.png":
            assert row["error"] == line["error"] == "the file is empty"
            assert row["class_1"] == ""
            continue
        assert row["error"] == ""
        for k, pair in enumerate(line["top"], start=1):
            assert row[f"class_{k}"] == pair["class"]
            assert float(row[f"probability_{k}"]) == pair["probability"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["found.csv", "found.jsonl"]


def test_all_classes_sum_to_one(cli: Cli, trained: Path, images: dict[str, str], tmp_path: Path) -> None:
    assert cli("predict", trained, "images/0.png", "--top", "99", "--out", "all.jsonl").returncode == 0
    (line,) = (tmp_path / "all.jsonl").read_text().splitlines()
    top = json.loads(line)["top"]
    assert {pair["class"] for pair in top} == set("0123456789")
    assert sum(pair["probability"] for pair in top) == pytest.approx(1, abs=1e-12)
    (found,) = imgrec.load(trained).predict([tmp_path / "images" / "0.png"])
    assert [pair["class"] for pair in top] == list(found.classes)
    assert [pair["probability"] for pair in top] == found.probabilities.tolist()


def test_images_that_cannot_be_read(cli: Cli, trained: Path, images: dict[str, str], tmp_path: Path) -> None:
    whole = (tmp_path / "images" / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    done = cli("predict", trained, "cut.png", "text.jpg", "images/0.png")
    assert done.returncode == 4
    assert "cut.png: cannot be read: " in done.stdout
    assert "text.jpg: cannot be read: it is not an image" in done.stdout
    assert done.stdout.splitlines()[2].startswith("images/0.png: ")
    assert "imgrec: error: 2 of 3 images could not be read" in done.stderr
    nothing = cli("predict", trained, "cut.png", "text.jpg")
    assert nothing.returncode == 4
    assert "2 of 2 images could not be read" in nothing.stderr
    a_glob = cli("predict", trained, "images/*")  # a glob selects every match, including notes.txt
    assert a_glob.returncode == 4
    assert len(a_glob.stdout.splitlines()) == COUNT // 2 + 1
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    none = cli("predict", trained, "empty")
    assert none.returncode == 2
    assert "empty: no image in this folder (1 file is no image by its ending, and is skipped: .txt (1))" in none.stderr


def test_a_table_of_paths(cli: Cli, trained: Path, images: dict[str, str], tmp_path: Path) -> None:
    names = sorted(images)
    rows = [names[0], names[1].replace("/", "\\"), "images/gone.png", names[0], str(tmp_path / names[2])]
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "paths.csv").write_text(
        "\ufeffnumber,File,error,note\n"
        + "".join(f'{n},{f"../{p}" if n < 4 else p},e{n},"a, b"\n' for n, p in enumerate(rows))
    )
    done = cli("predict", trained, "lists/paths.csv", "images/2.png", "--out", "out.csv", "--top", "1")
    assert done.returncode == 4
    assert "lists/../images/gone.png: cannot be read: there is no such file" in done.stderr
    found = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert list(found[0]) == ["path", "class_1", "probability_1", "error", "number", "input_error", "note"]
    assert [row["number"] for row in found] == ["0", "1", "2", "3", "4", ""]
    assert [row["input_error"] for row in found] == ["e0", "e1", "e2", "e3", "e4", ""]
    assert {row["note"] for row in found[:-1]} == {"a, b"}
    plain = {
        line.partition(": ")[0]: line.partition(": ")[2]
        for line in cli("predict", trained, "images").stdout.splitlines()
    }
    for row, name in zip(
        (found[i] for i in (0, 1, 3, 4, 5)), (*names[:2], names[0], names[2], "images/2.png"), strict=True
    ):
        assert f"{row['class_1']} {float(row['probability_1']):.4f}" == plain[name].partition(",")[0]
    cli("predict", trained, "lists/paths.csv", "--out", "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == ["0", "1", "2", "3", "4"]
    assert lines[2]["error"] == "there is no such file"
    (lists / "first.csv").write_text(f"a;b\n../{names[0]};1\n")  # without a known name: the first column
    assert cli("predict", trained, "lists/first.csv").returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\n", "expected one row per image after the header"),
        ("path,x\na.png,1\n,2\n", 'line 3: nothing in the column "path"'),
        ("path,x\nmy,a.png,1\n", "line 2: expected 2 cells as in the header, got 3"),
        ('path,x\n"a.png,1\nb.png,2\n', "line 2: cannot be read as CSV"),
        ("path,path\na.png,1\n", 'the column name "path" occurs twice'),
    ],
)
def test_invalid_table_is_rejected(text: str, message: str, cli: Cli, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    done = cli("predict", trained, "t.csv")
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("option", ["--top", "--batch_size"])
def test_a_count_is_at_least_one(option: str, cli: Cli, trained: Path, images: dict[str, str]) -> None:
    done = cli("predict", trained, "images", option, "0")
    assert done.returncode == 2
    assert "expected int > 0" in done.stderr


def test_long_list_reports_progress(
    cli: Cli, trained: Path, images: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgrec.cli.commands.predict._PLAIN_PROGRESS_SECONDS", -1.0)
    done = cli("predict", trained, "images")
    assert done.stderr.splitlines()[1:-1] == [f"{n}/{COUNT} images" for n in range(1, COUNT + 1)]


def test_the_installed_command_predicts(installed: Cli, trained: Path, images: dict[str, str], tmp_path: Path) -> None:
    done = installed("predict", trained, "images", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == COUNT
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["model", "skipped"]


def test_system_entries_are_no_images(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", "__MACOSX/a.png", "@eaDir/b.png/SYNOPHOTO_THUMB_M.jpg", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([str(tmp_path)])
    assert [row.path for row in found.rows] == [tmp_path / "a.png"]
    assert found.skipped == {"hidden": 2}
