"""``imgrec lr-find``: the learning-rate range test, with a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.options import parse
from imgrec.errors import UserError, suggestion
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.optim.lr_range_test import RangeTest

HELP = """usage: imgrec lr-find CONFIG.yaml [CONFIG.yaml ...] [--steps N] [--out FILE] [--key.subkey VALUE ...]

Look for a learning rate: train a copy for a few steps, each at a higher rate than the one before it, until the loss
goes away. It is the training that `imgrec fit` would begin: the same images, batches, accumulation, precision, losses
and regularizers; but no schedule, no validation, and no callback that averages, prunes, stops or writes. Nothing stays
but the two files that it writes.

  CONFIG, -c FILE      a config; several are merged, later over earlier
  --steps N            optimizer steps (default: 100)
  --low R, --high R    the rates between which to look (default: 1e-6 and 10)
  --rule NAME          which suggestion is taken: {rules} (default: steepest)
  --stop-at F          how many times its least running mean the loss may be (default: 4)
  --out FILE           the picture, .png, .jpg, .pdf or .svg; rates and losses stand in a .csv beside it
                       (default: lr-find.png)
  --key.subkey VALUE   one value: --data.batch_size 256

The rate that is suggested is the highest of a run: that of `model.optimizer`, which a schedule multiplies.
"""

DEFAULTS: dict[str, Any] = {
    "steps": 100,
    "low": 1e-6,
    "high": 10.0,
    "rule": "steepest",
    "stop-at": 4.0,
    "out": "lr-find.png",
}
_RULES = ("steepest", "valley", "minimum")
_PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")


def run(command: str, words: list[str]) -> int:
    """Run the test, write its picture and its table, print what is suggested."""
    arguments = parse(words)
    if arguments.help:
        print(HELP.format(rules=", ".join(_RULES)), end="")
        return 0
    given = DEFAULTS | {key: value for key, value in arguments.overrides if key in DEFAULTS}
    _check(given)

    from imgrec.cli.short_run import build_short_run
    from imgrec.engine.lr_find import configured_rate, range_test

    engine = build_short_run(command, arguments, DEFAULTS)
    picture = Path(given["out"])
    place, _ = configured_rate(engine)
    found = range_test(engine, given["steps"], given["low"], given["high"], given["stop-at"])
    status = _say(found, given["rule"], picture, place)
    _write(found, given["rule"], picture, place)
    return status


def _check(given: Mapping[str, Any]) -> None:
    from imgrec.engine.lr_find import check_range

    check_range(given["steps"], given["low"], given["high"], given["stop-at"])
    if given["rule"] not in _RULES:
        raise UserError(
            f'--rule: there is no "{given["rule"]}".{suggestion(str(given["rule"]), _RULES)} '
            f"Accepted: {', '.join(_RULES)}."
        )
    if Path(str(given["out"])).suffix.lower() not in _PICTURES:
        raise UserError(f"--out {given['out']}: expected a name that ends in {', '.join(_PICTURES)}")


def _write(found: RangeTest, rule: str, picture: Path, place: str) -> None:
    """The picture, and the table beside it."""
    from imgrec.cli.written import write_given, write_table
    from imgrec.reports.curves import range_picture
    from imgrec.reports.images import save_picture

    tried = zip(found.rates, found.losses, found.smoothed.tolist(), strict=True)
    rows = ([i, f"{rate:.8g}", f"{loss:.8g}", f"{mean:.8g}"] for i, (rate, loss, mean) in enumerate(tried))
    write_table(str(picture.with_suffix(".csv")), ["step", "learning_rate", "loss", "smoothed"], rows)
    write_given(str(picture), lambda path: save_picture(range_picture(found, rule, place), path))


def _say(found: RangeTest, rule: str, picture: Path, place: str) -> int:
    from imgrec.reports.curves import range_text

    print("\n".join(["", *range_text(found, rule), ""]))
    end = "the loss went away" if found.diverged else "the last one"
    print(f"tried      {len(found.losses)} learning rates from {found.rates[0]:.2g} to {found.rates[-1]:.2g}: {end}")
    try:
        suggested = found.suggestions()
    except UserError as error:
        print(f"suggested  nothing: {error}")
        return 3
    others = ", ".join(f"{name} {rate:.2g}" for name, rate in suggested.items() if name != rule)
    print(f"suggested  --{place} {suggested[rule]:.2g}   ({rule}; {others})")
    return 0
