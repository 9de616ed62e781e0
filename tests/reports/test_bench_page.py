from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from imgrec.errors import UserError
from imgrec.reports.bench.figures import pareto_drawings, write_figure
from imgrec.reports.bench.html import write_bench_page
from imgrec.reports.bench.results import Bench, BenchRow, Latency, write_bench
from imgrec.reports.bench.table import bench_cells, bench_columns, caption, columns_by_priority
from imgrec.reports.report import write_report
from imgrec.runs.folder import RunFolder
from imgrec.stats.intervals import wilson_interval


def make_row(
    name: str, runtime: str, precision: str, milliseconds: float, correct: int, nonzero: int = 1000
) -> BenchRow:
    """Return a row of a benchmark on 400 images."""
    low, high = wilson_interval(correct, 400)
    times = tuple(Latency(n, n * milliseconds / 1e3, n * milliseconds / 900, 50, 4 / milliseconds) for n in (1, 32))
    found = BenchRow(name, name, runtime, precision, 1000, nonzero, 20_000, 4096, 1 << 20, times, 1e3 / milliseconds)
    found = replace(found, split="test", images=400, accuracy=correct / 400, low=low, high=high, ece=0.0123)
    return replace(found, agreement=0.98, difference=-0.01, difference_low=-0.02, difference_high=0.0)


@pytest.fixture
def bench() -> Bench:
    rows = (
        make_row("dense", "torch", "fp32", 4.0, 380),
        make_row("dense", "onnxruntime", "fp32", 2.0, 380),
        make_row("dense/<int8>", "onnxruntime", "int8", 1.0, 376),
        make_row("sparse", "torch", "fp32", 4.1, 384, nonzero=100),
        make_row("slim", "openvino", "bf16", 3.0, 300),
        BenchRow("foreign.onnx", "foreign.onnx", "onnxruntime", "fp32", note="batch 32: not supported"),
    )
    return Bench(
        rows, "dense, torch fp32", "2026-11-22T03:00:00+00:00", "A processor", 2, "torch 2.15.0", ("Energy: no.",)
    )


def test_page_contains_exact_figures_and_is_self_contained(bench: Bench, tmp_path: Path) -> None:
    page = write_bench_page(bench, tmp_path / "bench.html").read_text()
    for address in ("http://", "https://", "src=", "@import", "url(h"):
        assert address not in page.replace("http://www.w3.org", "")
    for each in bench.rows[:5]:
        assert f'data-value="{each.accuracy!r}"' in page
        assert f'data-value="{1e3 * each.latencies[0].median!r}"' in page
    assert "<b>foreign.onnx, onnxruntime fp32</b>: batch 32: not supported" in page
    assert "dense/&lt;int8&gt;" in page
    assert "dense/<int8>" not in page
    assert "Measured 22 November 2026, 03:00 UTC with torch 2.15.0." in page
    assert "A speed-up is relative to dense, torch fp32" in page
    assert page.count("<svg") == 2


def test_drawings_mark_the_pareto_front(bench: Bench) -> None:
    latency, size = pareto_drawings(bench)
    assert latency.title == "Accuracy over latency"
    assert latency.description == (
        "Pareto front: dense/<int8>, onnxruntime int8 (94.00 %), dense, onnxruntime fp32 (95.00 %), "
        "sparse, torch fp32 (96.00 %)"
    )
    assert size.description == "Pareto front: sparse, torch fp32 (96.00 %)"
    for drawing in (latency, size):
        for label in ("PyTorch fp32", "ORT int8", "OpenVINO bf16"):
            assert label in drawing.svg


def test_zeros_have_a_column_and_are_no_speed_up(bench: Bench) -> None:
    columns = bench_columns(bench)
    sparse = dict(zip(columns, bench_cells(bench)[3], strict=True))
    assert sparse["Zeros"] == "90 %"
    assert (sparse["Params"], sparse["Batch 1 ms"], sparse["Batch 1 speed-up"]) == ("1 k", "4.10", "0.98x")
    assert {name for name in columns if name.startswith("Batch 32")} == {
        "Batch 32 ms",
        "Batch 32 p95 ms",
        "Batch 32 speed-up",
    }
    order = columns_by_priority(bench)
    assert sorted(order) == sorted(set(columns) - {"Network"})
    assert order[:3] == ["Runtime", "Precision", "Batch 1 ms"]
    assert order.index("Batch 1 speed-up") < order.index("Batch 32 ms") < order.index("Batch 32 p95 ms")
    assert sparse["Difference"] == "-1.00 (-2.00 to +0.00)"
    dense = replace(bench, rows=bench.rows[:2])
    assert "Zeros" not in bench_columns(dense)
    foreign = dict(zip(columns, bench_cells(bench)[5], strict=True))
    assert set(list(foreign.values())[3:]) == {"—"}
    assert caption(bench) == "A processor, 2 threads, 400 test images, compared with dense, torch fp32"


@pytest.mark.parametrize(("suffix", "signature"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_figure_file_has_the_format_of_its_suffix(bench: Bench, tmp_path: Path, suffix: str, signature: bytes) -> None:
    path = tmp_path / f"pareto.{suffix}"
    write_figure(bench, path)
    assert path.read_bytes().startswith(signature)
    if suffix == "png":
        colours = Image.open(path).convert("RGB").getcolors(1 << 20)
        assert colours is not None
        there = {colour for _, colour in colours}
        assert {(0x0B, 0x68, 0xB0), (0xC8, 0x50, 0x0A), (0x0A, 0x8A, 0x66)} <= there  # dense, its int8, sparse


def test_bench_without_accuracy_has_no_drawing(bench: Bench, tmp_path: Path) -> None:
    bare = replace(bench, rows=bench.rows[5:], reference="")
    assert pareto_drawings(bare) == []
    write_figure(bare, tmp_path / "pareto.svg")
    assert "no row has a latency and an accuracy" in (tmp_path / "pareto.svg").read_text()
    assert "No row has both a cost and an accuracy." in write_bench_page(bare, tmp_path / "a.html").read_text()


def test_report_contains_the_bench_of_its_run(bench: Bench, finished: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(finished.path, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert 'id="bench"' not in write_report(run).read_text()
    write_bench(run.path / "bench.csv", bench)
    page = write_report(run).read_text()
    assert 'id="bench"' in page
    assert "Accuracy over latency" in page
    (run.path / "bench.csv").write_text("nothing\n")
    with pytest.raises(UserError, match=r"bench.csv: expected"):
        write_report(run)
