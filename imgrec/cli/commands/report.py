"""``imgrec report``: write report.html of a run again."""

from __future__ import annotations

from imgrec.cli.parser import Parser
from imgrec.errors import UserError
from imgrec.utils.terminal import print


def run(command: str, words: list[str]) -> int:
    """Write report.html into a run folder, and print its path."""
    parser = Parser(prog="imgrec report", description="Write report.html of a run again.")
    parser.add_argument("run", help="a run folder")
    arguments = parser.parse_args(words)

    from imgrec.reports.report import write_report_with_images
    from imgrec.runs.data import load_run_data
    from imgrec.runs.folder import RunFolder

    folder = RunFolder(arguments.run)
    try:
        data = load_run_data(folder)
    except UserError as error:
        print(f"no thumbnails: {error}")
        data = None
    print(write_report_with_images(folder, data))
    return 0
