"""W&B logger, tested with real offline runs and the files that W&B wrote."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import wandb
from PIL import Image

from imgrec import RunFolder, UserError, WandbLogger
from imgrec.loggers.wandb import run as wandb_run
from imgrec.loggers.wandb.files import STEP, last_logged, wandb_history, wandb_logs, wandb_records
from imgrec.loggers.wandb.media import select_rows
from imgrec.runs.config import flat_config

Cli = Callable[..., "CompletedProcess[str]"]

GIVEN = {
    "class_path": "WandbLogger",
    "project": "demo",
    "entity": "us",
    "name": "first",
    "group": "folds",
    "job_type": "train",
    "tags": ["a", "b"],
    "notes": "a remark",
    "log_model": True,
    "table_rows": 12,
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("API_KEY", "DIR", "NAME", "PROJECT", "RUN_ID", "RESUME"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name, value in {"MODE": "offline", "SILENT": "true", "CONSOLE": "off"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setattr(wandb_run, "_failed", set())
    wandb.setup().settings.mode = "offline"  # W&B has read its environment before
    yield
    if WandbLogger._open is not None:
        WandbLogger._open.close()
    assert wandb.run is None, "a run was left open"


def written(run: Path) -> list[Path]:
    """Return the files of W&B in a run folder, after its service, a separate process, has completed them."""
    files = wandb_logs(run)
    deadline = time.monotonic() + 60
    while any(all(r.WhichOneof("record_type") != "exit" for r in wandb_records(file)) for file in files):
        assert time.monotonic() < deadline, "a run was not finished"
        time.sleep(0.05)
    return files


def record(run: Path, kind: str) -> list[Any]:
    """Return the records of one kind in all files of W&B in a run folder."""
    found = [each for file in written(run) for each in wandb_records(file)]
    return [getattr(each, kind) for each in found if each.WhichOneof("record_type") == kind]


def summary(run: Path) -> dict[str, Any]:
    """Return the summary of a run in W&B, merged from the updates."""
    found: dict[str, Any] = {}
    for each in record(run, "summary"):
        for item in each.update:
            place = found
            *path, last = [item.key] if item.key else item.nested_key
            for key in path:
                place = place.setdefault(key, {})
            place[last] = json.loads(item.value_json)
    return found


def history(run: Path) -> list[dict[str, Any]]:
    return [row for file in written(run) for row in wandb_history(file)]


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Return the run folder of a training with the logger. Tests only read it."""
    from imgrec.cli.main import main
    from tests.conftest import TINY

    place = tmp_path_factory.mktemp("mirrored")
    (place / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name, value in {"MODE": "offline", "SILENT": "true", "CONSOLE": "off"}.items():
            patch.setenv(f"WANDB_{name}", value)
        for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
            patch.setenv(name, "0")
        words = ["--trainer.logger", json.dumps(GIVEN), "--trainer.log_every_n_steps", "2", "--trainer.max_epochs", "3"]
        assert main(["fit", "--config", "tiny.yaml", *words]) == 0
    assert sorted(p.name for p in place.iterdir()) == ["runs", "tiny.yaml"]
    (run,) = (place / "runs/tiny").iterdir()
    return run


# ---------------------------------------------------------------- content of a W&B run


def test_run_has_the_settings_of_the_yaml(mirrored: Path) -> None:
    run, *changes = record(mirrored, "run")
    assert (run.project, run.entity, run.display_name) == ("demo", "us", "first")
    assert (run.run_group, run.job_type, list(run.tags), run.notes) == ("folds", "train", ["a", "b"], "a remark")
    assert {each.run_id for each in changes} <= {run.run_id}
    assert json.loads((mirrored / "wandb/run.json").read_text())["id"] == run.run_id
    (ended,) = record(mirrored, "exit")
    assert ended.exit_code == 0


def test_config_is_flat(mirrored: Path) -> None:
    run = record(mirrored, "run")[0]
    columns = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert columns.pop("_wandb") is not None
    assert columns == json.loads(json.dumps(flat_config(RunFolder(mirrored).config)))
    assert columns["loss/name"] == "cross_entropy"
    assert columns["optimizer/lr"] == 0.01
    assert columns["data/batch_size"] == 64


def test_every_value_of_metrics_csv_is_logged_once_at_its_step(mirrored: Path) -> None:
    theirs = [
        (row[STEP], name, value)
        for row in history(mirrored)
        for name, value in row.items()
        if isinstance(value, int | float) and not name.startswith(("_", "system/")) and name not in (STEP, "epoch")
    ]
    ours = [
        (step, name, value)
        for name, series in RunFolder(mirrored).metrics().items()
        for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True)
        if not name.startswith("system/")
    ]
    figures = {name for _, name, _ in ours}
    kept = sorted(each for each in theirs if each[1] in figures)
    assert [each[:2] for each in kept] == [each[:2] for each in sorted(ours)]
    assert [each[2] for each in kept] == pytest.approx([each[2] for each in sorted(ours)], rel=1e-6)
    assert {"val/acc", "train/loss", "train/loss_step", "test/acc"} < figures


def test_validation_metrics_are_summarized_by_their_best(mirrored: Path) -> None:
    metrics, expected = RunFolder(mirrored).metrics(), summary(mirrored)
    assert expected["val/acc"] == {"max": pytest.approx(metrics["val/acc"].values.max(), rel=1e-6)}
    assert expected["val/loss"] == {"min": pytest.approx(metrics["val/loss"].values.min(), rel=1e-6)}
    assert expected["test/acc"] == pytest.approx(RunFolder(mirrored).summary["test"]["acc"], rel=1e-6)
    for name in ("best_epoch", "best_score", "parameters", "status"):
        assert expected[name] == RunFolder(mirrored).summary[name]
    defined = {each.name: each.step_metric for each in record(mirrored, "metric") if each.name.startswith("val/")}
    assert set(defined.values()) == {STEP}


def test_checkpoints_and_the_model_folder_are_artifacts(mirrored: Path) -> None:
    kept = {tuple(sorted(each.aliases)): each for each in record(mirrored, "artifact") if each.type == "checkpoint"}
    assert list(kept) == [("best", "latest"), ("latest",)]  # the last upload has the alias latest
    for aliases, which in ((("best", "latest"), "best"), (("latest",), "last")):
        (file,) = kept[aliases].manifest.contents
        assert file.path == "model.ckpt"
        assert Path(file.local_path) == mirrored / f"checkpoints/{which}.ckpt"
        assert file.size == Path(file.local_path).stat().st_size
    (model,) = (each for each in record(mirrored, "artifact") if each.type == "model")
    assert {each.path for each in model.manifest.contents} == {"README.md", "config.json", "model.safetensors"}
    assert "best" in model.aliases


def test_evaluation_logs_a_table_a_matrix_and_curves(mirrored: Path) -> None:
    shown = [row for row in history(mirrored) if "test/predictions._type" in row]
    assert len(shown) == 1
    (file,) = (mirrored / "wandb").glob("offline-run-*/files/media/table/test/predictions_*.json")
    table = json.loads(file.read_text())
    assert table["columns"] == ["image", "id", "true", "predicted", "confidence", "correct"]
    assert len(table["data"]) == 12
    predictions = RunFolder(mirrored).predictions("test")
    for row, i in zip(table["data"], select_rows(predictions, 12), strict=True):
        _, name, true, expected, confidence, correct = row
        assert (name, true) == (predictions.ids[i], predictions.class_names[predictions.targets[i]])
        assert expected == predictions.class_names[predictions.predicted[i]]
        assert confidence == pytest.approx(predictions.probabilities[i].max())
        assert correct == (true == expected)
    (kept,) = (
        each for each in record(mirrored, "artifact") if each.name.endswith("-testpredictions-" + each.name[-6:])
    )
    images = [each.local_path for each in kept.manifest.contents if each.path.endswith(".png")]
    assert len(images) == 12
    for path in images:
        assert Path(path).is_relative_to(mirrored)
        with Image.open(path) as image:
            assert image.size == (8, 8)
    matrices = (mirrored / "wandb").glob("offline-run-*/files/media/table/test/confusion_matrix_table_*.json")
    cells = {(true, expected): count for true, expected, count in json.loads(next(matrices).read_text())["data"]}
    assert sum(cells.values()) == len(predictions)
    assert sum(count for (true, expected), count in cells.items() if true == expected) == round(
        predictions.accuracy * len(predictions)
    )
    for curve in ("roc", "reliability"):
        assert list((mirrored / "wandb").glob(f"offline-run-*/files/media/table/val/{curve}_table_*.json"))


# ---------------------------------------------------------------- several runs, failures, modes


def fresh(tmp_path: Path, trained: Path, name: str = "run") -> Path:
    """Return a copy of a run folder for a new W&B run."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / name, ignore=shutil.ignore_patterns("checkpoints")))


def test_second_run_in_one_process_is_separate(trained: Path, tmp_path: Path) -> None:
    folders = [fresh(tmp_path, trained, f"fold-{fold}") for fold in range(2)]
    for fold, folder in enumerate(folders):
        logger = WandbLogger(group="folds")
        logger.begin_run(folder)
        logger.log_metrics({"val/acc": 0.5 + fold / 4, "epoch": 0}, step=3)
    assert WandbLogger._open is not None
    WandbLogger._open.close()
    runs = [record(folder, "run")[0] for folder in folders]
    assert runs[0].run_id != runs[1].run_id
    assert [run.run_group for run in runs] == ["folds", "folds"]
    assert [run.display_name for run in runs] == ["tiny/fold-0", "tiny/fold-1"]
    for fold, folder in enumerate(folders):
        assert [row["val/acc"] for row in history(folder)] == [0.5 + fold / 4]
        assert [each.exit_code for each in record(folder, "exit")] == [0]


def test_one_logger_in_two_folders_creates_two_runs(trained: Path, tmp_path: Path) -> None:
    folders = [fresh(tmp_path, trained, name) for name in ("one", "two")]
    logger = WandbLogger()
    for folder in folders:
        logger.begin_run(folder)
        logger.begin_run(folder)  # a second fit in the same folder
    logger.close()
    ids = [[run.run_id for run in record(folder, "run")] for folder in folders]
    assert len(set(map(tuple, ids))) == 2
    assert all(len(set(each)) == 1 for each in ids)


def test_resumed_run_has_its_id_and_every_value_once(trained: Path, tmp_path: Path) -> None:
    folder = fresh(tmp_path, trained)
    first = WandbLogger()
    first.begin_run(folder)
    for step in range(6):
        first.log_metrics({"lr": 0.1}, step=step)
        first.log_metrics({"train/loss": float(step)}, step=step)
    first.finalize("failed")  # after step 5, of which validation has not been logged
    assert len(written(folder)) == 1
    assert last_logged(folder)[0] == 5
    second = WandbLogger()
    second.begin_run(folder)
    known = {3: {"epoch": 0, "lr": 0.1, "train/loss": 3.0, "val/acc": 0.75}}
    known |= {5: {"epoch": 0, "lr": 0.1, "train/loss": 5.0, "val/acc": 0.5}}
    second.resume(known)
    for step in range(4, 8):
        second.log_metrics({"lr": 0.1, "train/loss": float(step), "epoch": 1}, step=step)
    second.close()
    assert len(wandb_logs(folder)) == 2
    assert len({run.run_id for run in record(folder, "run")}) == 1
    assert [run.resume for run in record(folder, "run") if run.config.update] == [False, True]
    rows = [(row[STEP], name) for row in history(folder) for name in ("lr", "train/loss", "val/acc") if name in row]
    assert len(rows) == len(set(rows))
    assert {step for step, name in rows if name == "train/loss"} == set(range(8))
    assert (5, "val/acc") in rows
    # the second part has its own W&B process, but the summary is that of the whole run, as in metrics.csv
    best = max(RunFolder(folder).metrics()["val/acc"].values)
    assert summary(folder)["val/acc"] == {"max": best}


def test_values_after_the_end_are_logged_to_the_same_run(trained: Path, tmp_path: Path) -> None:
    folder = fresh(tmp_path, trained)
    logger = WandbLogger()
    logger.begin_run(folder)
    logger.log_metrics({"val/acc": 0.5}, step=0)
    logger.close()
    time.sleep(1.1)  # W&B names a part by the second in which it began
    logger.log_metrics({"test/acc": 0.25}, step=1)
    logger.close()
    assert len({run.run_id for run in record(folder, "run")}) == 1
    assert [(row[STEP], row.get("test/acc")) for row in history(folder)] == [(0, None), (1, 0.25)]


def test_failed_run_is_closed_as_failed(trained: Path, tmp_path: Path) -> None:
    folder = fresh(tmp_path, trained)
    logger = WandbLogger()
    logger.begin_run(folder)
    logger.finalize("failed")
    logger.close()
    assert [each.exit_code for each in record(folder, "exit")] == [1]


def test_run_without_a_key_is_offline_with_one_warning(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where W&B would look for a key
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    folder = fresh(tmp_path, trained)
    logger = WandbLogger(mode="online")
    with caplog.at_level(logging.WARNING, "imgrec"):
        logger.begin_run(folder)
        logger.log_metrics({"val/acc": 0.5}, step=0)
        logger.close()
    (expected,) = (each.message for each in caplog.records if each.name == "imgrec")
    assert "wandb login" in expected
    assert f"imgrec sync {folder}" in expected
    assert [row["val/acc"] for row in history(folder)] == [0.5]
    assert [file.parent.name.partition("-")[0] for file in wandb_logs(folder)] == ["offline"]


def test_run_without_a_server_is_offline(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.sdk.lib import wbauth

    folder = fresh(tmp_path, trained)
    logger = WandbLogger(
        mode="online", settings={"base_url": "http://127.0.0.1:9", "init_timeout": 0.5, "api_key": 40 * "a"}
    )
    monkeypatch.setattr(wandb, "login", lambda **_: True)  # it would look at the machine's own key
    try:
        with caplog.at_level(logging.WARNING, "imgrec"):
            logger.begin_run(folder)
            logger.log_metrics({"val/acc": 0.5}, step=0)
            logger.close()
    finally:
        wbauth.unauthenticate_session(update_settings=True)
    (expected,) = (each.message for each in caplog.records if each.name == "imgrec")
    assert f"imgrec sync {folder}" in expected
    (kept,) = wandb_logs(folder, offline_only=True)
    shutil.rmtree(next((folder / "wandb").glob("run-*")))  # what did not begin
    assert [row["val/acc"] for row in history(folder)] == [0.5]
    assert json.loads((folder / "wandb/run.json").read_text())["id"] == kept.stem.removeprefix("run-")


def test_disabled_logger_writes_nothing(trained: Path, tmp_path: Path) -> None:
    folder = fresh(tmp_path, trained)
    logger = WandbLogger(mode="disabled")
    logger.begin_run(folder)
    logger.log_metrics({"val/acc": 0.5}, step=0)
    logger.close()
    assert [p for p in folder.rglob("*") if "wandb" in p.parts and p.is_file()] == []


def test_failed_call_warns_once_and_training_continues(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = WandbLogger()
    logger.begin_run(fresh(tmp_path, trained))

    def broken(*_: Any, **__: Any) -> None:
        raise BrokenPipeError("the service died")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "imgrec"):
        patch.setattr(logger.experiment, "log", broken)
        for step in range(3):
            logger.log_metrics({"val/acc": 0.5}, step=step)
    (expected,) = (each.message for each in caplog.records if each.name == "imgrec")
    assert "the service died" in expected
    logger.close()


def test_existing_run_is_used_and_left_open(trained: Path, tmp_path: Path) -> None:
    own = wandb.init(project="own", dir=str(tmp_path), mode="offline")
    folder = fresh(tmp_path, trained)
    logger = WandbLogger()
    logger.begin_run(folder)
    logger.log_metrics({"val/acc": 0.5}, step=0)
    logger.close()
    assert wandb.run is own
    assert own.config["loss/name"] == "cross_entropy"
    own.finish()
    assert [row["val/acc"] for row in history(tmp_path)] == [0.5]


def test_no_run_without_a_folder() -> None:
    with pytest.raises(AttributeError, match="It has not begun"):
        _ = WandbLogger().experiment


def test_unknown_settings_raise() -> None:
    with pytest.raises(UserError, match=r'no setting "init_timout"\. Did you mean "init_timeout"'):
        WandbLogger(settings={"init_timout": 3})
    with pytest.raises(UserError, match="settings: "):
        WandbLogger(settings={"init_timeout": "soon"})
