"""The notebooks run from the first cell to the last, and their stored outputs are complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MACHINE = re.compile(
    r"(?:^|[\s'\"(=])(?:/(?:home|root|tmp|work|usr|opt|Users|mnt|var)/|[A-Z]:\\)|site-packages|Traceback"
)


def load(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def texts(notebook: Any) -> list[str]:
    """Return the text of all outputs."""
    found = [output["text"] for output in outputs(notebook) if output["output_type"] == "stream"]
    for output in outputs(notebook):
        found += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return found


def pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {"own_loss", "compare_runs", "compress", "plain_lightning"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_complete_and_contain_no_path_of_a_machine(path: Path) -> None:
    notebook = load(path)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for output in outputs(notebook) if output["output_type"] == "error"]
    assert pictures(notebook) >= 2
    for text in texts(notebook):
        assert not MACHINE.search(text), text
    assert all(not cell.metadata for cell in notebook.cells)
    assert path.stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path: Path, tmp_path: Path) -> None:
    stored = load(path)
    notebook = load(path)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert pictures(notebook) == pictures(stored)
    assert len(texts(notebook)) == len(texts(stored))
    if "imgrec.fit(" in path.read_text(encoding="utf-8"):
        assert any(text.startswith("Accuracy on 539 test images.") for text in texts(notebook))
        assert list((tmp_path / "runs").glob("*/*/report.html"))
