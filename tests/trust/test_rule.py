"""The rule itself: what an opening allows, in which threads and processes, and who may import a name from data."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import imgrec
from imgrec import trust
from imgrec.cli.main import main
from imgrec.errors import SpecError, UserError
from imgrec.losses import LOSSES
from imgrec.models.utils.compile import check_compile
from imgrec.trust import allow, import_named, opening, policy
from imgrec.trust.trust_file import trust_file
from imgrec.trust.untrusted import UntrustedError
from imgrec.utils.plain_types import is_plain
from imgrec.utils.signature import check_type

ROOT = Path(imgrec.__file__).parent


@pytest.fixture(autouse=True)
def _own_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(policy, "_declared", set())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_lab.py").write_text("import torch\nclass Mine(torch.nn.CrossEntropyLoss): ...\n")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    sys.modules.pop("my_lab", None)


def test_registered_names_and_the_full_names_of_registered_classes_are_allowed() -> None:
    with opening("received"):
        LOSSES.check("focal")
        LOSSES.check("imgrec.losses.focal.Focal" if "Focal" in dir(LOSSES.entry("focal").factory) else "focal")
        factory: Any = LOSSES.entry("focal").factory
        assert LOSSES.entry(f"{factory.__module__}.{factory.__qualname__}").factory is factory


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "my_lab.Mine",
        "torch.load",
        "builtins.exec",
        "antigravity.x",
        "..x",
        "a.",
        ".",
        "a.b;touch executed",
        "a.$(id)",
        "a.b c",
    ],
)
def test_other_names_are_refused_and_nothing_is_imported(name: str) -> None:
    before = set(sys.modules)
    with opening("received/model"), pytest.raises(UserError) as caught:
        LOSSES.build({"name": name}, "model.loss")
    assert name in str(caught.value)
    assert "received/model: model.loss" in str(caught.value)
    assert (f"--trust={name}" in str(caught.value)) == all(part.isidentifier() for part in name.split("."))
    assert "my_lab" not in set(sys.modules) - before
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("given", [True, "my_lab", "my_lab.Mine", ["my_lab"]])
def test_trust_allows_a_class_from_the_current_folder(given: trust.Trust) -> None:
    with opening("received", given):
        assert type(LOSSES.build("my_lab.Mine")).__name__ == "Mine"
    assert os.getcwd() not in sys.path  # noqa: PTH109


@pytest.mark.parametrize("given", [None, False, "my_la", "my_lab.Min", "my_lab.Mine.other", ["other"]])
def test_trust_of_another_name_is_not_enough(given: trust.Trust) -> None:
    with opening("received", given), pytest.raises(UntrustedError):
        LOSSES.build("my_lab.Mine")


def test_the_trust_file_lists_modules_with_comments(tmp_path: Path) -> None:
    path = trust_file()
    path.parent.mkdir(parents=True)
    path.write_text("# ours\nmy_lab   # all of it\n\n")
    with opening("received"):
        LOSSES.check("my_lab.Mine")
        with pytest.raises(UntrustedError, match=r"config/imgrec/trust"):
            LOSSES.check("os.system")


def test_names_of_training_stay_allowed_in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    LOSSES.check("my_lab.Mine")  # the user's own config
    with opening("its checkpoint"):
        LOSSES.check("my_lab.Mine")


def test_a_value_of_the_users_own_training_is_accepted_in_its_checkpoint() -> None:
    check_compile({"options": {"max_autotune": True}})  # the user's own config
    with opening("its checkpoint"):
        check_compile({"options": {"max_autotune": True}})
        check_compile({"backend": "aot_eager"})
        for other in ({"options": {"cpp.cxx": ["evil.sh"]}}, {"backend": "evil"}):
            with pytest.raises(UntrustedError):
                check_compile(other)


def test_arguments_of_user_are_allowed_while_opening() -> None:
    with opening("a run"):
        allow({"model": {"loss": {"name": "my_lab.Mine"}}})
        LOSSES.check("my_lab.Mine")
    with opening("a run"), pytest.raises(UntrustedError):
        LOSSES.check("my_lab.Mine")


def test_openings_nest_and_end() -> None:
    with opening("a", "my_lab"):
        with opening("b", "other"):
            assert import_named("my_lab.Mine", "", "loss").__name__ == "Mine"
        with pytest.raises(UntrustedError):
            import_named("other.X", "", "loss")
    assert trust.current() is None
    assert "IMGREC_OPENING" not in os.environ


def test_a_thread_is_bound_by_the_opening_of_another_one() -> None:
    raised: list[BaseException] = []

    def resolve() -> None:
        try:
            LOSSES.check("my_lab.Mine")
        except UserError as error:
            raised.append(error)

    with opening("received"):
        thread = threading.Thread(target=resolve)
        thread.start()
        thread.join()
    assert isinstance(raised[0], UntrustedError)


def test_a_child_process_inherits_the_opening() -> None:
    code = (
        "from imgrec.trust import current as c; print(c().origin, c().is_allowed('os.system'), c().is_allowed('a.b'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    with opening("received", "a"):
        done = subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True,
            env={**environment, "IMGREC_OPENING": os.environ["IMGREC_OPENING"]},
        )  # fmt: skip
    assert done.stdout.split() == ["received", "False", "True"]


def test_annotations_of_classes_take_no_names_in_an_opening() -> None:
    hints: list[Any] = [type[int], type, dict[str, type], Path | type[int]]
    for hint in hints:
        assert not is_plain(hint)
    with opening("received"):
        for hint, value in (
            (type[Any], "my_lab.Mine"),
            (dict[str, type], {"a": "my_lab.Mine"}),
            (SpecError, "my_lab.Mine"),
        ):
            with pytest.raises(SpecError, match="expected"):
                check_type(value, hint, "here")
        assert check_type({"class_path": "my_lab.Mine"}, dict[str, Any], "here") == {"class_path": "my_lab.Mine"}
        assert check_type(None, type[int] | None, "here") is None
    assert "my_lab" not in sys.modules


@pytest.mark.parametrize("command", ["predict", "test", "report", "bench", "runs"])
def test_the_current_folder_is_not_on_the_module_path_of_an_opening(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    seen: list[list[str]] = []
    from imgrec.cli import main as cli

    class Module:
        @staticmethod
        def run(command: str, arguments: list[str]) -> int:
            seen.append(list(sys.path))
            return 0

    monkeypatch.setattr(cli, "import_module", lambda name: Module)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    main([command, "x"])
    main(["fit", "x"])
    assert "" not in seen[0]
    assert str(tmp_path) not in seen[0]
    assert str(tmp_path) in seen[1]
    assert sys.path[:2] == ["", str(tmp_path)]


@pytest.mark.parametrize(("arguments", "status"), [(["--trust=", "runs"], 2), (["runs", "--trust", "--help"], 0)])
def test_the_option_is_taken_before_the_command(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found = main(arguments)
    except SystemExit as error:
        found = error.code if isinstance(error.code, int) else 1
    assert found == status
    assert "--trust" in "".join(capsys.readouterr())


# ---------------------------------------------------------------- nobody else imports

NAMED = {"import_module", "__import__", "exec", "eval", "compile", "run_path", "run_module", "locate", "resolve_name"}
ALLOWED = {
    ("trust/policy.py", "import_module"): "the rule",
    ("utils/optional.py", "import_module"): "the name is a constant of the caller",
    ("cli/main.py", "import_module"): "the table of commands",
    ("export/formats/__init__.py", "import_module"): "the modules of the package",
    ("export/runtimes/__init__.py", "import_module"): "the modules of the package",
    ("cli/commands/list_show.py", "import_module"): "the table of registries",
    ("runs/config.py", "import_module"): "the table of registries",
    ("engine/class_lists.py", "import_module"): "the table of class lists",
    ("engine/instantiate.py", "import_module"): "the table of Lightning's classes",
    ("compress/quantization/tracing.py", "exec"): "the code of a graph that this process traced",
}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            name = (
                function.id
                if isinstance(function, ast.Name)
                else function.attr
                if isinstance(function, ast.Attribute)
                else ""
            )
            owner = (
                function.value.id
                if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)
                else ""
            )
            found.append((f"{owner}.{name}" if owner else name, node))
    return found


def constant(call: ast.Call) -> bool:
    return bool(call.args) and isinstance(call.args[0], ast.Constant)


def keyword(call: ast.Call, name: str) -> Any:
    value = next((each.value for each in call.keywords if each.arg == name), None)
    return value.value if isinstance(value, ast.Constant) else None


def test_no_other_module_imports_a_name_that_is_not_a_constant() -> None:
    used = set()
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        for name, call in calls(path):
            last = name.rpartition(".")[2]
            where = f"{place}:{call.lineno}: {name}"
            method = isinstance(call.func, ast.Attribute)
            own_eval = last in ("eval", "compile", "locate") and method  # model.eval(), re.compile()
            own_locate = last == "locate" and "from imgrec.utils.paths import" in path.read_text(encoding="utf-8")
            if last in NAMED and not constant(call) and not own_eval and not own_locate:
                assert (place, last) in ALLOWED, where
                used.add((place, last))
            assert last not in ("Unpickler", "unsafe_load", "full_load", "read_pickle"), where
            assert name not in ("pickle.load", "pickle.loads", "marshal.loads", "dill.load", "joblib.load"), where
            if name in ("torch.load", "torch.jit.load", "torch.package.PackageImporter"):
                assert name == "torch.load", where
                assert keyword(call, "weights_only") is True, where
            if name in ("np.load", "numpy.load"):
                assert keyword(call, "allow_pickle") is False, where
            if name == "yaml.load" and "\nimport yaml\n" in path.read_text(encoding="utf-8"):  # PyYAML's
                loader = next(each.value for each in call.keywords if each.arg == "Loader")
                assert isinstance(loader, ast.Name), where
                assert place == "utils/yaml.py", where
            if last == "load_from_checkpoint" and "super" not in ast.unparse(call):
                assert keyword(call, "weights_only") is True, where
    assert used == set(ALLOWED), "an entry of ALLOWED is not needed any more"


def test_the_yaml_loaders_are_safe_ones() -> None:
    import yaml

    from imgrec.utils import yaml as yaml12

    for loader in (yaml12._Loader, yaml12._FastLoader):
        assert not issubclass(loader, yaml.UnsafeLoader | yaml.FullLoader)
    for text in (
        "!!python/object/apply:os.system ['touch executed']",
        "!!python/name:os.system",
        "!!python/module:my_lab",
    ):
        with pytest.raises((yaml.YAMLError, ValueError)):
            yaml12.parse(text)
