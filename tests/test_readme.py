"""All commands and Python blocks of the README and of the pages of the documentation that continue it are run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/techniques.md", "docs/training.md", "docs/compression.md", "docs/extending.md")
"""Pages in the order in which their blocks are run. The README trains the run that the other pages use."""
PYTHON_PAGES = ("docs/data.md",)
"""Pages whose Python blocks are run. Their commands would change the cache of the user."""
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")


def script(pages: str) -> str:
    """Return a bash script of all blocks. A Python block that begins with a file name is written to this file."""
    lines = ["set -eu"]
    for language, text in BLOCK.findall(pages):
        if language == "sh":
            lines += [line for line in text.splitlines() if not line.startswith("make ")]
        elif named := FILE.match(text):
            lines.append(f"cat > {named[1]} <<'END_OF_FILE'\n{text}END_OF_FILE")
        else:
            lines.append(f"export RUN; python - <<'END_OF_FILE'\nimport os\nRUN = os.environ['RUN']\n{text}END_OF_FILE")
    return "\n".join(lines) + "\n"


def python_blocks(page: str) -> list[str]:
    """Return the text of the Python blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for language, block in BLOCK.findall(text) if language == "python"]


def test_the_readme_lists_targets_of_the_makefile() -> None:
    commands = re.findall(r"^make ([\w-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert commands == ["demo", "test"]
    assert set(commands) <= set(targets)


def test_every_linked_file_exists() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.slow
def test_everything_in_the_readme_runs(tmp_path: Path) -> None:
    for folder in ("experiments", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    text += "".join(f"```python\n{block}```\n" for page in PYTHON_PAGES for block in python_blocks(page))
    commands = script(text)
    done = subprocess.run(
        ["bash", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "docs/digits/three.png 3 0." in done.stdout  # the Python block of the README
    assert "torch.Size([2, 4])" in done.stdout  # plain Lightning in extending.md
    assert "numpy (3, 2)" in done.stdout  # the runtime of extending.md
    assert "('cat', 'dog', 'ship') {'train':" in done.stdout  # the data set of data.md
    accuracies = [float(a) for a in re.findall(r"^accuracy +[\d.]+ +([\d.]+)", done.stdout, re.MULTILINE)]
    assert len(accuracies) >= 4
    assert all(a > 0.9 for a in accuracies)
