"""``imgrec augment``: a picture of what training really sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.options import parse
from imgrec.engine.config import Config, merge, override, read_config
from imgrec.errors import UserError
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.types import Batch

HELP = """usage: imgrec augment CONFIG.yaml [--out grid.png] [--key.subkey VALUE ...]

Draw what training sees: the same images in columns, first as they are, then as each epoch draws them, with their
targets underneath. Transforms, whole-batch transforms and mixing are those of training, with the same draws.

  CONFIG, -c FILE      a config; several are merged, later over earlier
  --out FILE           the picture: .png, .jpg or .pdf (default: augment.png)
  --columns N          how many images (default: 8)
  --rows N             how many epochs (default: 6)
  --progress F         the fraction of training that is done, for schedules and `until` (default: 0)
  --key.subkey VALUE   one value: --data.train_transforms '[cifar, mixup]'
"""

DEFAULTS: dict[str, Any] = {"out": "augment.png", "columns": 8, "rows": 6, "progress": 0.0}


def run(command: str, words: list[str]) -> int:
    """Write the picture, and print its path."""
    arguments = parse(words)
    if arguments.help:
        print(HELP, end="")
        return 0
    given = DEFAULTS | {key: value for key, value in arguments.overrides if key in DEFAULTS}
    _check(given)
    files = [*arguments.targets, *arguments.configs]
    if not files:
        raise UserError("augment needs a config: imgrec augment experiments/digits/quickstart.yaml")
    config: Config = {}
    for path in files:
        config = merge(config, read_config(path))
    for key, value in arguments.overrides:
        if key not in DEFAULTS:
            config = override(config, key, value)

    from imgrec.engine.experiment import Experiment

    experiment = Experiment(config)
    experiment.data.prepare_data()
    experiment.data.setup("fit")
    for callback in experiment.trainer.callbacks:
        if hasattr(callback, "schedule"):
            callback.schedule(experiment.data.training)
    draw(experiment.data, Path(given["out"]), given["columns"], given["rows"], given["progress"])
    print(given["out"])
    return 0


def draw(data: Any, out: Path, columns: int, rows: int, progress: float) -> None:
    """Write the picture of a data module's first training batch.

    Args:
        data: an :class:`imgrec.ImageDataModule` after ``setup``.
        out: where to; the suffix says which format.
        columns: images of the batch that are shown; it is mixed as a whole.
        rows: epochs.
        progress: the fraction of training that is done.

    Raises:
        UserError: the file cannot be written.
    """
    from imgrec.data.thumbnails import load_reduced
    from imgrec.reports.images import GridRow, image_grid, save_picture, target_caption

    loader = data.train_dataloader()
    order = next(iter(loader.batch_sampler))
    places = [place[0] if isinstance(place, tuple) else place for place in order]
    names = data.facts.class_names
    loaded = [loader.dataset.__getitems__([(place, epoch) for place in places]) for epoch in range(rows)]
    epochs = [data.augment(batch, progress) for batch in loaded]
    columns = min(columns, len(loaded[0]))

    def row(label: str, images: Any, batch: Batch) -> GridRow:
        return GridRow(label, images[:columns], [target_caption(target, names) for target in batch.targets[:columns]])

    originals = row("as it is", load_reduced(data, loaded[0].ids[:columns]), loaded[0])
    seen = [row(f"epoch {epoch}", batch.images, batch) for epoch, batch in enumerate(epochs)]
    save_picture(image_grid([originals, *seen]), out)


def _check(given: dict[str, Any]) -> None:
    for key in ("columns", "rows"):
        if not isinstance(given[key], int) or isinstance(given[key], bool) or given[key] < 1:
            raise UserError(f"--{key}: expected a number, 1 or more, got {given[key]!r}")
    if not isinstance(given["progress"], int | float) or not 0 <= given["progress"] <= 1:
        raise UserError(f"--progress: expected a fraction of training, 0 to 1, got {given['progress']!r}")
    if Path(str(given["out"])).suffix.lower() not in (".png", ".jpg", ".jpeg", ".pdf", ".svg"):
        raise UserError(f"--out {given['out']}: expected a name that ends in .png, .jpg, .pdf or .svg")
