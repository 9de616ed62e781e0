"""``imgrec test`` and ``validate`` of a run whose figures are those of its export."""

from __future__ import annotations

from pathlib import Path

from imgrec.cli.options import Arguments
from imgrec.errors import UserError
from imgrec.runs.folder import RunFolder, is_run_folder
from imgrec.utils.terminal import print


def exported_run(targets: list[str]) -> RunFolder | None:
    """Return the run that a command is given, if its figures are those of its export; otherwise ``None``."""
    if len(targets) != 1 or not is_run_folder(Path(targets[0])):
        return None
    from imgrec.runs.product import KEY

    run = RunFolder(targets[0])
    return run if run.summary.get(KEY) is not None else None


def evaluate_export(command: str, run: RunFolder, arguments: Arguments) -> int:
    """Evaluate the export of a run on a split of the run's data, and print the figures. The run folder is not changed.

    Raises:
        UserError: If options ask for another network or other data than the figures of the run are of.
    """
    if arguments.configs or arguments.overrides or arguments.ckpt_path or arguments.tta is not None:
        raise UserError(
            f"{command}: the figures of {run.path} are those of its export {run.summary['export']}, which takes no "
            f"options. Give a checkpoint of the run, or {run.path}/model to imgrec predict, for its network in PyTorch."
        )
    if arguments.print_config:
        print((run.path / "config.yaml").read_text(encoding="utf-8"), end="")
        return 0

    import torch

    from imgrec.cli.results import print_results
    from imgrec.export.backends import RuntimeBackend
    from imgrec.runs.data import data_of
    from imgrec.runs.evaluation import figures_of, predict_split
    from imgrec.runs.product import measured_export, open_export

    folder = measured_export(run)
    assert folder is not None
    split: str = {"validate": "val"}.get(command, command)
    network, _ = open_export(folder, threads=torch.get_num_threads())
    with network:
        print(f"model      {folder}: {RuntimeBackend(network).title}")
        found = predict_split(data_of(run), "val" if split == "val" else "test", network)
    if found is None:
        raise UserError(f"the data of the run {run.path} has no images in the split {split}")
    print_results({split: figures_of(found)}, run, None)
    return 0
