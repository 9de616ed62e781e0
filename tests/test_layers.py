"""The order of the layers, the documentation of public names, and the imports of `imgrec --help`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import imgrec

ROOT = Path(imgrec.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LAYERS = [
    "errors",
    "trust",
    "utils",
    "registry",
    "spec_defaults",
    "types",
    "metrics",
    "stats",
    "augment",
    "data",
    "models",
    "losses",
    "regularizers",
    "optim",
    "compress",
    "export",
    "tasks",
    "runs",
    "reports",
    "compare",
    "bench",
    "audit",
    "loggers",
    "callbacks",
    "engine",
    "studies",
    "cli",
]
HEAVY = {"torch", "torchvision", "timm", "pytorch_lightning", "torchmetrics", "wandb"}


def names(path: Path) -> list[str]:
    """Return the parts of the dotted name of a module after ``imgrec``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return list(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Return line and full name of every import in a file, including those in functions."""
    inside = ["imgrec", *names(path)] if path.name == "__init__.py" else ["imgrec", *names(path)][:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = inside[: len(inside) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            # `from imgrec import x` and `from imgrec.cli import x`: the layer is the second part
            deeper = module.split(".") == ["imgrec"]
            yield from ((node.lineno, f"{module}.{alias.name}" if deeper else module) for alias in node.names)


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_subpackage_is_a_layer() -> None:
    found = {names(path)[0] for path in FILES if names(path)}
    assert found <= set(LAYERS)
    assert {"registry", "data", "cli"} <= found


@pytest.mark.parametrize("path", [p for p in FILES if names(p) and names(p)[0] != "cli"], ids=identify)
def test_a_layer_imports_only_from_layers_before_it(path: Path) -> None:
    layer = names(path)[0]
    accepted = LAYERS[: LAYERS.index(layer) + 1]
    for line, name in imports(path):
        if name.partition(".")[0] == "imgrec":
            assert name != "imgrec", f"{identify(path)}:{line} imports the package itself"
            other = name.split(".")[1]
            assert other in accepted, f"{identify(path)}:{line}: {layer}/ imports {other}, a later layer"


def test_metrics_and_statistics_import_only_numpy() -> None:
    for path in sorted([*(ROOT / "metrics").rglob("*.py"), *(ROOT / "stats").rglob("*.py")]):
        for line, name in imports(path):
            first = name.partition(".")[0]
            assert first not in {*HEAVY, "sklearn"}, f"{identify(path)}:{line} imports {name}"


def test_networks_losses_and_optimizers_import_no_lightning() -> None:
    for layer in ("augment", "models", "losses", "regularizers", "optim", "metrics", "stats", "compress"):
        for path in (ROOT / layer).rglob("*.py"):
            for line, name in imports(path):
                assert not name.startswith(("pytorch_lightning", "lightning")), f"{identify(path)}:{line}"


def test_no_module_prints_past_the_escaping() -> None:
    exempt = {"utils/terminal.py", "utils/console.py", "bench/process.py", "bench/worker.py"}  # JSON lines in pipes
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = list(ast.walk(tree))
        prints = any(isinstance(node, ast.Name) and node.id == "print" for node in nodes)
        imports = {
            (node.module, alias.name) for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        if place in exempt:
            continue
        assert not prints or ("imgrec.utils.terminal", "print") in imports, (
            f"{place} prints without imgrec.utils.terminal.print"
        )
        calls = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert "Console" not in calls, f"{place} makes a console that is no PlainConsole"
        assert "sys.stdout.write" not in map(ast.unparse, (n.func for n in nodes if isinstance(n, ast.Call))), place


# ---------------------------------------------------------------- the help is quick

HELPS = [["--help"], [], ["--version"], ["list", "--help"], ["show", "--help"], ["list"], ["fit", "--help"]]
HELPS += [["test", "--help"], ["predict", "--help"], ["report", "--help"], ["fti"]]


def test_the_help_of_every_command_imports_no_torch() -> None:
    code = f"""
import sys
from imgrec.cli.main import COMMANDS, main
assert set(COMMANDS) == {{"fit", "validate", "test", "evaluate", "predict", "augment", "report", "audit", "cache",
    "list", "show", "runs", "compare", "compress", "resume", "sync", "watch", "bench", "lr-find", "batch-find", "cost",
    "soup"}}
for words in {HELPS!r} + [[command, "--help"] for command in COMMANDS]:
    try:
        status = main(words)
    except SystemExit as error:
        status = error.code or 0
    assert status == (2 if words == ["fti"] else 0), words
    heavy = {HEAVY!r} & sys.modules.keys()
    assert not heavy, (words, heavy)
import imgrec
dir(imgrec)
assert not {HEAVY!r} & sys.modules.keys()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "usage: imgrec COMMAND" in ended.stdout
    assert 'no command "fti". Did you mean "fit"' in ended.stderr


# ---------------------------------------------------------------- what is documented


def public(body: list[ast.stmt], place: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield the public classes and functions of a module, and the public methods of its classes."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield f"{place}.{node.name}", node
            yield from public(node.body, f"{place}.{node.name}")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield f"{place}.{node.name}", node


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_public_names_have_docstrings(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    lines = source.splitlines()
    assert ast.get_docstring(tree) or not tree.body, f"{identify(path)} has no docstring"
    for name, node in public(tree.body, ".".join(["imgrec", *names(path)])):
        assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        inherited = "# noqa: D102" in lines[node.lineno - 1]  # documented in the base class
        doc = ast.get_docstring(node)
        assert doc or inherited, f"{name} has no docstring"
        assert doc is None or doc.partition("\n")[0].endswith((".", ":", "?", "::")), f"{name}: {doc}"


def test_listed_names_are_importable() -> None:
    for name in imgrec.__all__:
        assert getattr(imgrec, name) is not None
    assert set(imgrec.__all__) <= set(dir(imgrec))
    with pytest.raises(AttributeError, match="No imgrec attribute Clasifier"):
        _ = imgrec.Clasifier  # type: ignore[attr-defined]
