from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imgrec.errors import UserError
from imgrec.runs.folder import RunFolder, check_writable, create_run_folder, find_runs


def test_run_folder_reads_its_files(finished: RunFolder) -> None:
    assert finished.experiment == "digits/linear"
    assert finished.run_id == "seed-3"
    assert finished.config["seed_everything"] == 3
    assert finished.environment["data_fingerprint"] == "4f1c02ab"
    assert finished.summary["epochs"] == 12
    assert len(finished.metrics()["val/acc"]) == 12
    assert finished.predictions("test").accuracy == finished.summary["test"]["acc"]
    assert len(finished.predictions("val")) == 240
    assert Path(finished).samefile(finished.path)
    assert finished.report.parent == finished.model_folder.parent == finished.exports.parent == finished.path


def test_experiment_defaults_to_the_parent_folder(run: RunFolder) -> None:
    assert run.experiment == "demo"
    assert run.summary == {}


def test_missing_checkpoint_is_an_error_with_suggestions(run: RunFolder) -> None:
    with pytest.raises(UserError, match=r'no checkpoint "best"\. It has none'):
        run.checkpoint()
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints" / "last.ckpt").touch()
    assert run.checkpoint("last") == run.path / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=r'It has: last\. Did you mean "last"'):
        run.checkpoint("lst")


def test_missing_predictions_are_an_error_with_suggestions(finished: RunFolder, run: RunFolder) -> None:
    with pytest.raises(UserError, match=r'no predictions on "tets"\. It has: test, val\. Did you mean "test"'):
        finished.predictions("tets")
    with pytest.raises(UserError, match="It has none"):
        run.predictions()
    assert finished.has_predictions("val")
    assert not run.has_predictions("val")


def test_a_folder_that_does_not_exist_names_the_nearest(run: RunFolder) -> None:
    with pytest.raises(UserError, match=r'run folder not found: .*demi\. Did you mean "demo"'):
        RunFolder(run.path.parent.parent / "demi")


def test_a_folder_of_runs_lists_them_newest_first(tmp_path: Path) -> None:
    for number in range(12):
        made = create_run_folder(tmp_path, "many", f"run-{number:02d}")
        (made / "config.yaml").touch()
        (made / "environment.json").touch()
        os.utime(made / "environment.json", (number, number))
    with pytest.raises(UserError) as caught:
        RunFolder(tmp_path)
    lines = str(caught.value).splitlines()
    assert "is no run folder: expected a folder of `imgrec fit` with config.yaml and environment.json" in lines[0]
    assert lines[1].endswith("run-11")
    assert lines[-1].strip() == "and 2 more"
    assert len(lines) == 12


def test_path_inside_a_run_is_an_error_with_its_run(run: RunFolder) -> None:
    inside = run.path / "checkpoints"
    inside.mkdir()
    for place in (inside, run.path / "config.yaml"):
        with pytest.raises(UserError, match=f"inside the run {run.path}. Use that folder"):
            RunFolder(place)


def test_an_empty_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run folder"):
        RunFolder(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.yaml", "a: [1", "is not valid YAML"),
        ("config.yaml", "- 1\n", "expected a mapping, got list"),
        ("environment.json", "{", "is not valid JSON"),
        ("environment.json", "[]", "expected a JSON object, got list"),
    ],
)
def test_broken_files_are_errors_with_their_path(run: RunFolder, name: str, text: str, message: str) -> None:
    (run.path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        _ = (run.config, run.environment)
    assert str(run.path / name) in str(caught.value)


def test_find_runs_skips_folders_in_runs_and_hidden_folders(finished: RunFolder) -> None:
    root = finished.path.parent.parent.parent
    hidden = root / ".trash" / "old"
    hidden.mkdir(parents=True)
    (hidden / "config.yaml").touch()
    (hidden / "environment.json").touch()
    assert list(find_runs(root)) == [finished.path]
    assert list(find_runs(root, depth=2)) == []
    assert list(find_runs(root / "nothing")) == []


def test_runs_of_the_same_second_have_different_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: create_run_folder(tmp_path / "runs", "a/b"), range(24)))
    assert len(set(made)) == 24
    assert all(path.is_dir() and path.parent == tmp_path / "runs" / "a" / "b" for path in made)


def test_existing_run_id_is_rejected(tmp_path: Path) -> None:
    made = create_run_folder(tmp_path, "a", "one")
    (made / "kept").touch()
    with pytest.raises(UserError, match="exists already"):
        create_run_folder(tmp_path, "a", "one")
    assert (made / "kept").exists()


@pytest.mark.parametrize(
    ("experiment", "run_id"), [("../up", None), ("/elsewhere", None), ("", None), ("a", "b/c"), ("a", "..")]
)
def test_names_outside_the_root_are_rejected(tmp_path: Path, experiment: str, run_id: str | None) -> None:
    with pytest.raises(UserError, match="expected a name such as"):
        create_run_folder(tmp_path / "runs", experiment, run_id)
    assert list(tmp_path.iterdir()) == []


def test_check_writable_rejects_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("untouched")
    for attempt in (lambda root: check_writable(root), lambda root: create_run_folder(root, "a")):
        with pytest.raises(UserError, match=r"run folders? in .*: cannot be written .*Not a directory"):
            attempt(tmp_path / "file" / "runs")
    assert (tmp_path / "file").read_text() == "untouched"


def test_missing_permission_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:  # root may write anywhere, so a test cannot take the right away
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        check_writable(tmp_path)


def test_check_writable_creates_no_file(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
