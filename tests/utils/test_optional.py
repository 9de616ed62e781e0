from __future__ import annotations

import sys
from pathlib import Path

import pytest

from imgrec.errors import UserError
from imgrec.utils.optional import require


def test_installed_package_is_imported() -> None:
    assert require("importlib.metadata", "compress") is sys.modules["importlib.metadata"]


def test_missing_package_error_names_extra() -> None:
    with pytest.raises(UserError) as caught:
        require("no_such_package.part", "compress", "structured pruning")
    message = "structured pruning needs the package no-such-package: pip install 'imgrec[compress]'"
    assert str(caught.value) == message


def test_missing_dependency_of_package_is_distinguished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("import no_such_dependency.inner\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"half-installed \(its dependency no_such_dependency is missing\): pip"):
        require("half_installed", "export")
