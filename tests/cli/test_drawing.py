from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from imgrec.optim import SCHEDULES
from imgrec.reports.curves import schedule_points, schedule_text

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_every_schedule_is_drawn(name: str, cli: Cli) -> None:
    done = cli("show", "schedules", name, "--plot")
    assert done.returncode == 0, done.stderr
    drawn = done.stdout.partition("factor of the learning rate:")[2].splitlines()
    assert sum(any(0x2800 < ord(c) < 0x2900 for c in line) for line in drawn) >= 1
    schedule = SCHEDULES.build(name)
    output = {line[:30].rstrip(): line for line in drawn}
    for place, factor in schedule_points(schedule).items():
        line = next(line for line in output.values() if line.strip().startswith(place))
        assert float(line.split()[-1]) == pytest.approx(factor, rel=1e-3, abs=1e-9)


def test_the_curve_goes_down_across_the_terminal() -> None:
    lines = schedule_text(SCHEDULES.build("linear"))
    dots = [[i for i, c in enumerate(line) if 0x2800 < ord(c) < 0x2900] for line in lines[:-1]]
    assert all(min(lower) > min(upper) for upper, lower in pairwise(dots))
    assert lines[0].strip().startswith("1 ")
    assert "50 %" in lines[-1]


def test_a_spec_is_drawn_into_a_picture(cli: Cli, tmp_path: Path) -> None:
    done = cli("show", "schedules", "{name: wsd, warmup: 0.1, decay: 0.5}", "--plot", "wsd.png")
    assert done.returncode == 0, done.stderr
    assert "after the warm-up, at 10 %  1\n" in done.stdout
    with Image.open(tmp_path / "wsd.png") as image:
        assert min(image.size) > 300
    assert cli("show", "schedules", "cosine", "--plot", "curve.svg").returncode == 0
    assert "<svg" in (tmp_path / "curve.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("losses", "focal", "--plot"), "--plot: expected the registry schedules, got losses."),
        (
            ("schedules", "cosine", "--plot", "curve.txt"),
            "figure: expected a file name with .png, .svg, .pdf, got curve.txt",
        ),
        (("schedules", "{name: cosine, final: 3}", "--plot"), "final: expected "),
        (("schedules", "cosin", "--plot"), 'Did you mean "cosine"'),
    ],
)
def test_invalid_plot_is_rejected_before_output(
    arguments: tuple[str, ...], message: str, cli: Cli, tmp_path: Path
) -> None:
    done = cli("show", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
