"""``imgrec report``: the page of a run, written anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.parser import Parser
from imgrec.errors import UserError
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.runs.folder import RunFolder


def run(command: str, words: list[str]) -> int:
    """Write report.html into a run folder, and print its path."""
    parser = Parser(prog="imgrec report", description="Write a run's report.html anew.")
    parser.add_argument("run", help="a run folder")
    arguments = parser.parse_args(words)

    from imgrec.runs.data import data_of
    from imgrec.runs.folder import RunFolder

    folder = RunFolder(arguments.run)
    try:
        data = data_of(folder)
    except UserError as error:
        print(f"no thumbnails: {error}")
        data = None
    print(write(folder, data))
    return 0


def write(folder: RunFolder, data: Any) -> Path:
    """Write the report, with the thumbnails that the data module can give."""
    from imgrec.reports.report import write_report
    from imgrec.runs.data import images_of

    return write_report(folder, images=images_of(data) if hasattr(data, "load_images") else None)
