"""``imgrec show schedules NAME --plot``: the curve of a schedule, in the terminal or as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from imgrec.engine.config import parse_value
from imgrec.errors import UserError

TERMINAL = "-"
"""What stands for the terminal in the place of a file."""


def read_spec(word: str) -> Any:
    """A name as it stands, or a mapping with the name and arguments, as YAML has it."""
    return parse_value(word) if word.lstrip().startswith("{") else word


def drawn(plural: str, word: str, file: str) -> Iterator[str]:
    """The curve that a schedule's name or spec gives, as lines; with a file, it is drawn there, too.

    Raises:
        UserError: there is nothing to draw, arguments are refused, or the file cannot be written.
    """
    if plural != "schedules":
        raise UserError(f"--plot draws the curve of a schedule; {plural} have none.")
    from imgrec.optim import SCHEDULES, Plateau
    from imgrec.reports.schedule_picture import (
        check_picture_file,
        schedule_points,
        schedule_text,
        write_schedule_picture,
    )

    if file != TERMINAL:
        check_picture_file(file)
    spec = read_spec(word)
    schedule = SCHEDULES.build(spec)
    yield ""
    yield "the learning rate is multiplied by:"
    yield ""
    yield from schedule_text(schedule)
    yield ""
    points = {place: f"{value:.4g}" for place, value in schedule_points(schedule).items()}
    width = max(map(len, points))
    yield from (f"  {place:<{width}}  {value}" for place, value in points.items())
    if isinstance(schedule, Plateau):
        yield f"  as long as {schedule.monitor} improves; it is multiplied by {schedule.gamma:g} at each standstill"
    if file != TERMINAL:
        write_schedule_picture(file, [(spec if isinstance(spec, str) else _said(spec), schedule)])
        yield ""
        yield f"drawn in {file}"


def _said(spec: dict[str, Any]) -> str:
    return ", ".join([str(spec["name"]), *(f"{key} {value}" for key, value in spec.items() if key != "name")])
