from __future__ import annotations

import csv
import html
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrec.audit.messages import RULES

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


class Page(HTMLParser):
    """The numbers of a page by name and its images. It raises if the page refers to another file."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.values: dict[str, int] = {}
        self.pictures: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "data-name" in given:
            self.values[given["data-name"]] = int(given["data-value"])
        if tag == "img":
            self.pictures.append(given["alt"])
        for name in ("src", "href"):
            assert given.get(name, "#").startswith(("data:image/", "#"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes with 12 images each. The first has an empty file, the second two copies with HTML in their names."""
    root = tmp_path / "my images"
    for c, name in enumerate(("a", "b")):
        (root / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.random.default_rng(100 * c + i).integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02d}.png")
    (root / "a" / "broken.png").write_bytes(b"")
    for name in ("<b>1&2.png", "<b>1&3.png"):
        Image.fromarray(np.random.default_rng(999).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(
            root / "b" / name
        )
    return root


def test_a_folder_is_audited_and_its_list_is_read_back(cli: Cli, images: Path, tmp_path: Path) -> None:
    done = cli("audit", images, "--fix", "fix.csv")
    assert done.returncode == 0, done.stderr
    assert "empty" in done.stdout
    assert "normalize: {mean: [0." in done.stdout
    out = tmp_path / "audit" / "my images"
    with (out / "findings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "split", "class", "finding", "detail", "related", "action", "reason"]
    assert {row["id"] for row in rows if row["finding"] == "empty"} == {"a/broken.png"}
    copies = [row for row in rows if row["finding"].startswith("duplicate")]
    assert {(row["id"], row["related"]) for row in copies} == {
        ("b/<b>1&2.png", "b/<b>1&3.png"),
        ("b/<b>1&3.png", "b/<b>1&2.png"),
    }

    page = Page((out / "audit.html").read_text(encoding="utf-8"))
    assert page.values["images"] == 27
    assert page.values["unreadable"] == 1
    assert page.values["empty"] == 1
    assert sorted(page.pictures) == ["b/<b>1&2.png", "b/<b>1&3.png"]

    proposed = {row["id"] for row in rows if row["action"] == "exclude"}
    assert len(proposed) == 2
    again = cli("audit", images, "--data.exclude", "fix.csv", "--out", "second")
    assert again.returncode == 0, again.stderr
    assert "nothing found" in again.stdout
    with (tmp_path / "fix.csv").open(newline="") as file:
        assert {row["id"] for row in csv.DictReader(file)} == proposed


def test_copies_with_different_labels_are_for_a_person_on_the_page_and_in_the_lists(
    cli: Cli, images: Path, tmp_path: Path
) -> None:
    (images / "a" / "00 copy.png").write_bytes((images / "a" / "00.png").read_bytes())
    (images / "a" / "contested.png").write_bytes((images / "b" / "03.png").read_bytes())
    done = cli("audit", images, "--fix", "fix.csv", "--relabel", "--turned")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "audit" / "my images"
    with (out / "findings.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["finding"].startswith("duplicate")]
    actions = {row["id"]: row["action"] for row in rows}
    assert actions["a/contested.png"] == actions["b/03.png"] == "decide"
    excluded = {name for name, action in actions.items() if action == "exclude"}
    assert len(excluded) == 2  # one of the two copies of a/00.png, and one of the two in class b
    with (tmp_path / "fix.csv").open(newline="") as file:
        fixed = {row["id"]: row["action"] for row in csv.DictReader(file)}
    assert fixed == dict.fromkeys([*excluded, "a/broken.png"], "exclude")
    page = html.unescape((out / "audit.html").read_text(encoding="utf-8"))
    assert "exclude the first" not in page
    assert "decide between the labels (--fix changes neither image)" in page
    assert all(f"exclude: {name}" in page for name in excluded)
    for action, meaning in RULES.items():
        assert meaning in page
        assert f"{action}: {meaning}" in done.stdout
    assert {row["reason"] for row in rows if row["action"] == "decide"} == {RULES["decide"]}
    assert "No label was judged" in done.stdout
    assert "No label was judged" in page
    assert "rotated, mirrored and cropped copies" in page


@pytest.mark.parametrize(
    ("model", "recommended"),
    [
        ("backbone: {name: resnet18, pretrained: true}", False),
        ("backbone: {name: resnet18, weights: folder}", False),
        ("normalize: half", False),
        ("backbone: resnet18", True),
    ],
)
def test_constants_are_recommended_for_training_from_scratch_alone(
    cli: Cli, tmp_path: Path, model: str, recommended: bool
) -> None:
    (tmp_path / "my.yaml").write_text(f"model: {{{model}}}\ndata: {{source: digits, image_size: 16, channels: 1}}\n")
    done = cli("audit", "my.yaml")
    assert done.returncode == 0, done.stderr
    assert ("normalize: {mean: [0." in done.stdout) == recommended
    assert ("no normalization constants are recommended: the " in done.stdout) != recommended
    page = (tmp_path / "audit" / "my" / "audit.html").read_text()
    assert ("mean: [" in page) == recommended


def test_a_run_folder_is_audited(cli: Cli, trained: Path) -> None:
    done = cli("audit", trained, "--out", "found")
    assert done.returncode == 0, done.stderr
    assert "10 classes" in done.stdout


def test_label_errors_by_the_predictions_of_a_run(cli: Cli, trained: Path) -> None:
    pytest.importorskip("cleanlab")
    done = cli("audit", trained, "--predictions", trained, "--out", "found")
    assert done.returncode == 0, done.stderr
    assert "label errors" in done.stdout
    assert f"{trained} judged " in done.stdout
    assert "training images were not judged by a model that was not trained on them" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a config, a run folder or a folder of images"),
        (["tiny.yaml", "other.yaml"], "expected no further argument, got 'other.yaml'"),
        (["tiny.yaml", "--embedings", "resnet18"], 'no option "--embedings". Did you mean "--embeddings"'),
        (["tiny.yaml", "--embeddings", "resnet18x"], "--embeddings"),
        (["tiny.yaml", "--embeddings", "3"], "--embeddings: expected the name or the spec of a backbone, got 3"),
        (["tiny.yaml", "--turned=3"], "--turned: expected no value, true or false, got '3'"),
        (["tiny.yaml", "--similarity", "2"], "--similarity: expected float in (0, 1], got 2"),
        (["tiny.yaml", "--predictions", "nowhere"], "nowhere"),
        (["tiny.yaml", "--data.batchsize", "3"], 'Did you mean "batch_size"'),
        (["nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_invalid_input_is_one_error(cli: Cli, tiny: Path, arguments: list[str], message: str) -> None:
    done = cli("audit", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tiny.parent / "audit").exists()


def test_unwritable_output_is_one_error(cli: Cli, tiny: Path) -> None:
    done = cli("audit", tiny, "--out", tiny / "inside")
    assert done.returncode == 6
    assert "cannot be written" in done.stderr
