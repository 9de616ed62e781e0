"""``imgrec augment``: a picture of what training really sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.config import Config, merge, override, read_config
from imgrec.cli.training import parse
from imgrec.errors import UserError
from imgrec.files import written_aside

if TYPE_CHECKING:
    from torch import Tensor

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

    from imgrec.cli.engine import Engine

    engine = Engine(config)
    engine.data.prepare_data()
    engine.data.setup("fit")
    for callback in engine.trainer.callbacks:
        if hasattr(callback, "schedule"):
            callback.schedule(engine.data.training)
    draw(engine.data, Path(given["out"]), given["columns"], given["rows"], given["progress"])
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
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    loader = data.train_dataloader()
    order = next(iter(loader.batch_sampler))
    places = [place[0] if isinstance(place, tuple) else place for place in order]
    names = data.facts.class_names
    loaded = [loader.dataset.__getitems__([(place, epoch) for place in places]) for epoch in range(rows)]
    epochs = [data.augment(batch, progress) for batch in loaded]
    columns = min(columns, len(loaded[0]))
    originals = data.load_images(loaded[0].ids[:columns])
    figure, axes = plt.subplots(rows + 1, columns, figsize=(1.5 * columns, 1.75 * (rows + 1)), squeeze=False)
    for column in range(columns):
        _show(axes[0][column], originals[column], caption(loaded[0], column, names))
        for row, batch in enumerate(epochs, 1):
            _show(axes[row][column], batch.images[column], caption(batch, column, names))
    for row, said in enumerate(["as it is", *(f"epoch {epoch}" for epoch in range(rows))]):
        axes[row][0].set_ylabel(said, fontsize=7)
    figure.tight_layout(pad=0.3)
    try:
        with written_aside(out) as aside:
            figure.savefig(aside, dpi=110)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error})") from error
    finally:
        plt.close(figure)


def caption(batch: Batch, place: int, names: tuple[str, ...], at_most: int = 2) -> str:
    """A sample's class; of a mixed one the classes with their parts, the largest first."""
    target = batch.targets[place]
    if not target.is_floating_point():
        return names[int(target)]
    parts, classes = target.topk(min(at_most, len(names)))
    shown = [(float(p), names[int(c)]) for p, c in zip(parts, classes, strict=True) if float(p) > 0.005]
    return ", ".join(name if p > 0.995 else f"{name} {p:.2f}" for p, name in shown)


def _show(axis: Any, image: Tensor | None, said: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)
    axis.set_xlabel(said if len(said) <= 30 else f"{said[:29]}…", fontsize=7, labelpad=2)
    if image is not None:
        pixels = image.permute(1, 2, 0).cpu().numpy()
        grey = pixels.shape[2] == 1
        top = 255 if pixels.dtype == "uint8" else 1
        axis.imshow(pixels[:, :, 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=top)


def _check(given: dict[str, Any]) -> None:
    for key in ("columns", "rows"):
        if not isinstance(given[key], int) or isinstance(given[key], bool) or given[key] < 1:
            raise UserError(f"--{key}: expected a number, 1 or more, got {given[key]!r}")
    if not isinstance(given["progress"], int | float) or not 0 <= given["progress"] <= 1:
        raise UserError(f"--progress: expected a fraction of training, 0 to 1, got {given['progress']!r}")
    if Path(str(given["out"])).suffix.lower() not in (".png", ".jpg", ".jpeg", ".pdf", ".svg"):
        raise UserError(f"--out {given['out']}: expected a name that ends in .png, .jpg, .pdf or .svg")
