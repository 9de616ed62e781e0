from __future__ import annotations

import sys
from pathlib import Path

import pytest

from imgrec.errors import UserError
from imgrec.utils.optional import require


def test_what_is_there_is_imported() -> None:
    assert require("importlib.metadata", "compress") is sys.modules["importlib.metadata"]


def test_what_is_missing_says_what_to_install() -> None:
    with pytest.raises(UserError) as caught:
        require("no_such_package.part", "compress", "structured pruning")
    message = "structured pruning needs the package no-such-package: pip install 'imgrec[compress]'"
    assert str(caught.value) == message


def test_a_package_whose_own_dependency_is_missing_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import no_such_dependency.inner\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"half-installed \(its dependency no_such_dependency is missing\): pip"):
        require("half_installed", "export")
