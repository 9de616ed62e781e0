"""The parser of options of the commands that take no config."""

from __future__ import annotations

import argparse
from typing import Any

from imgrec.utils.terminal import print


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that escapes control characters in what it prints, such as file names from a shell."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:
            print(message, end="", file=file)
