"""``imgrec augment``: a figure of augmented training images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.option_types import PICTURES, FileName, Number
from imgrec.cli.parser import Parser
from imgrec.engine.config import Config, merge, override, read_config
from imgrec.errors import UserError
from imgrec.utils.ranges import ClosedUnitInterval, PositiveInt
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.types import Batch

DESCRIPTION = """Draw augmented training images: one column per image, the original image in the first row, then one
row per epoch, with the targets below. Transforms, batch transforms and mixing are those of training, with equal
random numbers."""


def run(command: str, words: list[str]) -> int:
    """Write the figure, and print its path."""
    given = _parser().parse_args(words)
    if not given.files:
        raise UserError("augment: expected a config: imgrec augment experiments/digits/quickstart.yaml")
    config: Config = {}
    for path in given.files:
        config = merge(config, read_config(path))
    for key, value in given.overrides:
        config = override(config, key, value)

    from imgrec.engine.experiment import Experiment

    experiment = Experiment(config)
    experiment.data.prepare_data()
    experiment.data.setup("fit")
    for callback in experiment.trainer.callbacks:
        if hasattr(callback, "schedule"):
            callback.schedule(experiment.data.training)
    draw(experiment.data, Path(given.out), given.columns, given.rows, given.progress)
    print(given.out)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="imgrec augment", description=DESCRIPTION)
    parser.accept_config()
    parser.add_argument(
        "--out", type=FileName(*PICTURES), default="augment.png", metavar="FILE", help="figure: .png, .jpg, .pdf, .svg"
    )
    parser.add_argument("--columns", type=Number(PositiveInt), default=8, metavar="N", help="number of images")
    parser.add_argument("--rows", type=Number(PositiveInt), default=6, metavar="N", help="number of epochs")
    parser.add_argument(
        "--progress", type=Number(ClosedUnitInterval), default=0.0, metavar="F",
        help="completed fraction of training, for schedules and `until`",
    )  # fmt: skip
    return parser


def draw(data: Any, out: Path, columns: int, rows: int, progress: float) -> None:
    """Write a figure of the first training batch of a data module. The batch is mixed as a whole.

    Args:
        data: An :class:`imgrec.ImageDataModule` after ``setup``.
        out: The file. Its suffix is the format.
        columns: Number of images in the figure.
        rows: Number of epochs.
        progress: Completed fraction of training, 0 to 1.

    Raises:
        UserError: If the file cannot be written.
    """
    from imgrec.data.thumbnails import load_reduced
    from imgrec.reports.images import GridRow, image_grid, save_figure, target_caption

    loader = data.train_dataloader()
    order = next(iter(loader.batch_sampler))
    positions = [each[0] if isinstance(each, tuple) else each for each in order]
    names = data.facts.class_names
    loaded = [loader.dataset.__getitems__([(position, epoch) for position in positions]) for epoch in range(rows)]
    epochs = [data.augment(batch, progress) for batch in loaded]
    columns = min(columns, len(loaded[0]))

    def row(label: str, images: Any, batch: Batch) -> GridRow:
        return GridRow(label, images[:columns], [target_caption(target, names) for target in batch.targets[:columns]])

    originals = row("original", load_reduced(data, loaded[0].ids[:columns]), loaded[0])
    augmented = [row(f"epoch {epoch}", batch.images, batch) for epoch, batch in enumerate(epochs)]
    save_figure(image_grid([originals, *augmented]), out)
