from __future__ import annotations

from pathlib import Path

import pytest

from imgrec.reports.terminal_plot import plot
from imgrec.runs.folder import RunFolder
from imgrec.runs.live import LiveRun, MetricsTail
from imgrec.runs.lock import RunLock
from imgrec.runs.metrics_csv import MetricsLog, read_metrics
from imgrec.runs.summary import update_summary
from imgrec.runs.system import SECONDS

CONFIG = "seed_everything: 0\ntrainer: {max_epochs: 10}\n"


@pytest.fixture
def run(run: RunFolder) -> RunFolder:
    (run.path / "config.yaml").write_text(CONFIG)
    return run


def train(run: RunFolder, epochs: int, seconds: float = 20.0, steps: int = 5) -> None:
    """Write epochs of ``steps`` steps that take ``seconds``, half of it validation. The second epoch is the best."""
    with MetricsLog(run.metrics_file) as log:
        for epoch in range(epochs):
            for step in range(steps - 1):
                clock = epoch * seconds + (step + 1) * seconds / 2 / steps
                log.append(epoch * steps + step, epoch, {"train/loss_step": 1.0, SECONDS: clock})
            values = {"train/loss": 2.0 / (epoch + 1), "val/acc": [0.5, 0.9, 0.7, 0.6][epoch], "val/loss": 1.0}
            log.append(epoch * steps + steps - 1, epoch, {**values, SECONDS: (epoch + 1) * seconds})


def live(run: RunFolder) -> LiveRun:
    found = LiveRun(run.path)
    found.tail.read()
    return found


# ---------------------------------------------------------------- following the file


def test_metrics_tail_equals_read_metrics(run: RunFolder) -> None:
    train(run, 3)
    tail, whole = live(run).tail, read_metrics(run.metrics_file)
    assert tail.curves.keys() == whole.keys()
    for name, series in whole.items():
        assert tail.curves[name].values == series.values.tolist()
        assert tail.curves[name].steps == series.steps.tolist()
        assert tail.curves[name].epochs == series.epochs.tolist()


def test_metrics_tail_reads_a_growing_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    tail = MetricsTail(path)
    assert not tail.read()
    text = b"step,epoch,a\n0,0,1.0\n1,0,2.5\n2,0,\n3,1,4.0\n"
    path.write_bytes(b"")
    for end in range(len(text) + 1):  # cut off at every byte
        with path.open("ab") as file:
            file.write(text[end - 1 : end] if end else b"")
        tail.read()
        whole = text[:end].count(b"\n")
        assert tail.last == {0: None, 1: None, 2: (0, 0), 3: (1, 0), 4: (2, 0), 5: (3, 1)}[whole]
    assert tail.curves["a"].values == [1.0, 2.5, 4.0]
    assert tail.curves["a"].steps == [0, 1, 3]
    assert not tail.read()


def test_rewritten_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    tail = MetricsTail(path)
    with MetricsLog(path) as log:
        log.append(0, 0, {"a": 1.0})
        tail.read()
        log.append(1, 0, {"a": 2.0, "b": 3.0})  # the file is written aside and renamed
    tail.read()
    assert tail.curves["a"].values == [1.0, 2.0]
    assert tail.curves["b"].values == [3.0]


def test_invalid_rows_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,epoch,a\n0,0,1.0\n1,0,x\n2,0\n\n3,0,4.0\n")
    tail = MetricsTail(path)
    assert tail.read()
    assert tail.curves["a"].steps == [0, 3]


# ---------------------------------------------------------------- how far, how fast


def test_remaining_time_includes_validation(run: RunFolder) -> None:
    train(run, 4)
    now = live(run).progress()
    assert (now.step, now.max_steps, now.epochs_done, now.max_epochs) == (20, 50, 4, 10)
    assert now.fraction == 0.4
    assert now.steps_per_second == pytest.approx(0.25)  # 5 steps in 20 s
    assert now.seconds_left == pytest.approx(120)
    assert now.seconds == 80


def test_first_epoch_has_a_speed_without_remaining_time(run: RunFolder) -> None:
    with MetricsLog(run.metrics_file) as log:
        for step in range(4):
            log.append(step, 0, {"train/loss_step": 1.0, SECONDS: 1.0 + step / 2})
    now = live(run).progress()
    assert now.steps_per_second == pytest.approx(2.0)
    assert (now.step, now.max_steps, now.seconds_left, now.fraction) == (4, None, None, None)


def test_max_steps_is_available_in_the_first_epoch(run: RunFolder) -> None:
    (run.path / "config.yaml").write_text("trainer: {max_epochs: -1, max_steps: 8}\n")
    with MetricsLog(run.metrics_file) as log:
        for step in range(4):
            log.append(step, 0, {"train/loss_step": 1.0, SECONDS: 1.0 + step / 2})
    now = live(run).progress()
    assert (now.max_epochs, now.max_steps, now.fraction) == (None, 8, 0.5)
    assert now.seconds_left == pytest.approx(2.0)


def test_the_best_so_far(run: RunFolder) -> None:
    train(run, 4)
    assert live(run).best("val/acc") == (0.9, 1)
    assert live(run).best("train/loss") == (0.5, 3)
    assert live(run).best("val/auroc") is None


def test_a_run_has_ended_when_no_process_works_in_it(run: RunFolder) -> None:
    assert live(run).has_ended
    lock = RunLock(run.path)
    assert not live(run).has_ended
    for status in ("running", "finished"):  # what is finished may be evaluated still
        update_summary(run.path, {"status": status})
        assert not live(run).has_ended, status
    lock.release()
    for status in ("running", "failed", "preempted", "finished"):
        update_summary(run.path, {"status": status})
        assert live(run).has_ended, status
    (run.path / "summary.json").write_text('{"status": "fini')
    assert not live(run).has_ended


def test_progress_before_the_first_row_is_none(run: RunFolder) -> None:
    now = live(run).progress()
    assert (now.step, now.seconds, now.seconds_left, now.steps_per_second) == (0, None, None, None)
    lock = RunLock(run.path)
    assert live(run).status == "starting"
    lock.release()


# ---------------------------------------------------------------- curves


def dots(lines: list[str]) -> set[tuple[int, int]]:
    """Return the dots of a drawing as (column, row from the bottom)."""
    height, found = 4 * len(lines), set()
    order = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]  # Unicode's numbering of the eight dots
    for row, line in enumerate(lines):
        for column, character in enumerate(line):
            if character in " o":
                continue
            bits = ord(character) - 0x2800
            assert 0 < bits < 256
            found |= {(2 * column + x, height - 1 - 4 * row - y) for i, (x, y) in enumerate(order) if bits >> i & 1}
    return found


def test_plot_draws_a_line_through_its_points() -> None:
    drawn = plot(([0, 9], [0, 9]), ([], []), width=5, height=3, x_range=(0, 9), y_range=(0, 11))
    assert len(drawn) == 3
    assert {len(line) for line in drawn} == {5}
    found = dots(drawn)
    assert {(0, 0), (9, 9)} <= found
    assert all(abs(x - y) <= 1 for x, y in found)
    assert {x for x, _ in found} == set(range(10))  # no gap


def test_plot_has_gaps_for_non_finite_values_and_clips_others() -> None:
    drawn = plot(
        ([0, 1, 2, 8, 9], [0, 0, float("nan"), 99, 99]), ([], []), width=5, height=1, x_range=(0, 9), y_range=(0, 3)
    )
    assert dots(drawn) == {(0, 0), (1, 0), (8, 3), (9, 3)}


def test_plot_draws_marks_over_the_line() -> None:
    drawn = plot(([0, 4], [1, 1]), ([0, 4, 2], [0, 1, float("nan")]), width=5, height=2, x_range=(0, 4), y_range=(0, 1))
    assert [[i for i, c in enumerate(line) if c == "o"] for line in drawn] == [[4], [0]]


def test_plot_without_points_is_blank() -> None:
    assert plot(([], []), ([], []), width=3, height=2, x_range=(0, 0), y_range=(0, 0)) == ["   ", "   "]
