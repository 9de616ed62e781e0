"""Weight averaging of runs: ``imgrec.soup_runs`` and ``imgrec soup``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from imgrec.trust import Trust, opening

if TYPE_CHECKING:
    from imgrec.runs.folder import RunFolder


def soup_runs(
    *runs: RunFolder | str | Path,
    method: Literal["greedy", "uniform"] = "greedy",
    batch_norm: int = 1024,
    device: str = "auto",
    trust: Trust = None,
) -> RunFolder:
    """Average the weights of trained networks into a new run folder (:class:`imgrec.studies.soup.soup.Soup`).

    Args:
        runs: Run folders, checkpoints in run folders, or folders of runs.
        method: ``greedy`` adds networks while validation accuracy does not fall. ``uniform`` averages all networks.
        batch_norm: Number of training images for new batch norm statistics. 0 averages the statistics. Defaults to
            1024.
        device: ``auto`` selects a GPU if available. Defaults to ``auto``.
        trust: Names of classes and modules that the runs may contain in addition to the registries. ``True`` allows
            every name. Defaults to none.

    Raises:
        UserError: If the networks cannot be averaged. No file is written.

    Example::

        soup = imgrec.soup_runs("runs/a/20261121-143005", "runs/a/20261121-150000")
        print(soup.summary["soup"]["accuracy"])
    """
    with opening("soup", trust):
        return make_soup(runs, method, batch_norm, device)


def make_soup(
    runs: Sequence[RunFolder | str | Path], method: Literal["greedy", "uniform"], batch_norm: int, device: str
) -> RunFolder:
    """Average the weights of runs as :func:`soup_runs` does."""
    from imgrec.engine.library_output import quiet_libraries
    from imgrec.studies.soup.soup import Soup

    quiet_libraries()
    return Soup(runs, method, batch_norm, device).run()
