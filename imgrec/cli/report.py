"""``imgrec report``: the page of a run, written anew."""

from __future__ import annotations

import argparse


def run(command: str, words: list[str]) -> int:
    """Write report.html into a run folder, and print its path."""
    parser = argparse.ArgumentParser(prog="imgrec report", description="Write a run's report.html anew.")
    parser.add_argument("run", help="a run folder")
    arguments = parser.parse_args(words)

    from imgrec.runs.folder import RunFolder

    folder = RunFolder(arguments.run)

    from imgrec.runs.report import write_report

    print(write_report(folder, images=_images(folder.config)))
    return 0


def _images(config: dict[str, object]) -> object:
    return config
