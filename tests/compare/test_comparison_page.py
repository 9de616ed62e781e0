from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imgrec.compare.comparison import Comparison, compare_runs
from imgrec.compare.figures import curve_drawings, mean_curve
from imgrec.compare.html import write_comparison
from tests.html_page import Page

StoredRun = Callable[..., Path]


def squares(ids: list[str]) -> list[NDArray[np.uint8] | None]:
    """Return images for all ids except the first."""
    return [None, *(np.full((8, 8, 3), 90, np.uint8) for _ in ids[1:])]


def random_correct(seed: int, share: float, count: int = 240) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(count) < share


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory, stored_run: StoredRun) -> Comparison:
    """Comparison of two recipes with three seeds and one with a single seed."""
    root = tmp_path_factory.mktemp("compared")
    for seed in range(3):
        stored_run(root, "pets/plain", seed, random_correct(seed, 0.9), config={"loss": "cross_entropy"})
        stored_run(root, "pets/<focal>", seed, random_correct(5 + seed, 0.4), config={"loss": "focal"})
    stored_run(root, "pets/one", 0, random_correct(9, 0.8), config={"loss": "cross_entropy", "note": "</td><script>"})
    return compare_runs([root])


@pytest.fixture(scope="module")
def page(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_comparison(comparison, tmp_path_factory.mktemp("page") / "compare.html", squares))


def test_page_is_self_contained_and_escapes_text_of_runs(page: Page) -> None:
    assert page.open == []
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert len([tag for tag, _ in page.elements if tag == "script"]) == 1
    assert "<focal>" in page.text
    assert "</td><script>" in page.text
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', page.source)) <= set(ids)


def test_page_contains_all_sentences_figures_and_notes(page: Page, comparison: Comparison) -> None:
    for pair in comparison.pairs:
        assert pair.sentence in page.text
        assert f"{100 * pair.low:+.2f} to {100 * pair.high:+.2f}" in page.text
    for group in comparison.groups:
        assert f"{100 * group.accuracy:.2f} %" in page.text
    for run in comparison.runs:
        assert run.name in page.text
    assert all(note in page.text for note in comparison.notes)
    assert "Warning: one run only: one." in page.text
    assert page.source.count('class="cell"') == len(comparison.groups) + len(comparison.pairs)


def test_every_run_is_a_line_in_the_colour_of_its_group(page: Page, comparison: Comparison) -> None:
    drawings = curve_drawings(comparison.groups)
    assert [drawing.title for drawing in drawings] == ["Validation accuracy", "Validation NLL", "Training loss"]
    for drawing in drawings:
        assert drawing.svg in page.source
        lines = [drawing.svg.count(f'<g class="series-{number}">') for number in range(3)]
        assert lines == [len(group.runs) + (len(group.runs) > 1) for group in comparison.groups]
        assert all(f"var(--series-{number})" in drawing.svg for number in range(3))
        assert not re.search(r"#0606\w\w", drawing.svg)
    assert "<title>&lt;focal&gt;</title>" in drawings[0].svg


def test_mean_curve_has_the_epochs_that_all_runs_have(comparison: Comparison) -> None:
    group = next(group for group in comparison.groups if group.name == "plain")
    curve = mean_curve(group, ["val/acc"])
    assert curve is not None
    assert curve[0].tolist() == [1, 2, 3]
    np.testing.assert_allclose(curve[1], group.accuracy * np.array([1 / 3, 2 / 3, 1]))
    assert mean_curve(group, ["val/gone"]) is None


def test_images_that_groups_classify_differently_are_shown(page: Page, comparison: Comparison) -> None:
    pair = next(pair for pair in comparison.pairs if {pair.first.name, pair.second.name} == {"plain", "<focal>"})
    plain, focal = (pair.first, pair.second) if pair.first.name == "plain" else (pair.second, pair.first)
    expected = np.asarray(plain.correct.all(axis=0) & ~focal.correct.any(axis=0))
    assert expected.sum() > 7
    heading = f"{expected.sum()} correct by every run of plain, incorrect by every run of <focal>"
    assert heading in page.text
    shown = re.findall(r"image/(\d{4})\.png", page.text[page.text.index(heading) :])[:7]
    assert expected[[int(number) for number in shown]].all()
    assert "no image" in page.text
    assert len([a for tag, a in page.elements if tag == "img" and a.get("class") == "tiny"]) > 7


def test_classes_have_the_accuracy_of_every_group(page: Page, comparison: Comparison) -> None:
    section = page.source[page.source.index('<section id="classes">') :]
    row = re.search(r'data-value="dog">dog</th><td data-value="80">80</td>(.*?)</tr>', section)
    assert row is not None
    dogs = comparison.images.targets == 1
    values = [float(value) for value in re.findall(r'data-value="([\d.]+)"', row[1])]
    assert values[:3] == pytest.approx([group.correct[:, dogs].mean() for group in comparison.groups])


def test_page_is_deterministic(comparison: Comparison, tmp_path: Path) -> None:
    first = write_comparison(comparison, tmp_path / "a.html").read_text()
    assert first == write_comparison(comparison, tmp_path / "b.html").read_text()
    with pytest.raises(ValueError, match="got 0"):
        write_comparison(comparison, tmp_path / "a.html", lambda ids: [])
    assert (tmp_path / "a.html").read_text() == first


def test_page_of_many_runs_without_metrics(tmp_path: Path, stored_run: StoredRun) -> None:
    names = [f"class {i}" for i in range(60)]
    for seed in range(9):
        run = stored_run(tmp_path, "many", seed, random_correct(seed, 0.5, 600), class_names=names)
        (run / "metrics.csv").unlink()
    found = compare_runs([tmp_path], group_by="none")
    page = Page(write_comparison(found, tmp_path / "page.html"))
    assert page.open == []
    assert "contain no accuracy and no loss" in page.text
    assert "The 40 of 60 classes with the largest differences." in page.text
    assert "The 6 pairs with the lowest p-values. The table below contains 30 more." in page.text
    assert "9 runs" in page.text
