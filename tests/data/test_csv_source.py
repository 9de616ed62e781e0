from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from imgrec.data import SOURCES, BadImage, CsvTable
from imgrec.errors import UserError

Writer = Callable[..., Path]


def table(folder: Path, text: str, name: str = "labels.csv") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_paths_labels_and_splits(classes: Writer) -> None:
    root = classes({"a": 2, "b": 1})
    file = table(
        root,
        "path,label,split\na/000.png,cat,train\n./a/001.png,dog,validation\n\nb/000.png,cat,\n",
    )
    source = CsvTable(file)
    assert source.ids == ["a/000.png", "a/001.png", "b/000.png"]
    assert source.class_names == ("cat", "dog")
    assert source.targets.tolist() == [0, 1, 0]
    assert source.splits == ["train", "val", None]
    assert source.load(2).shape == (3, 12, 12)


def test_columns_root_and_delimiter_can_be_named(classes: Writer, tmp_path: Path) -> None:
    root = classes({"a": 2})
    text = f"\ufefffile\tspecies\tfold\na/000.png\tcat\ttrain\n{root}/a/001.png\tdog\ttest\n"
    file = table(tmp_path / "elsewhere", text, "labels.tsv")
    source = CsvTable(file, root=str(root), path_column="file", label_column="species", split_column="fold")
    assert source.ids == ["a/000.png", "a/001.png"]
    assert source.splits == ["train", "test"]
    assert source.load(1).shape == (3, 12, 12)


def test_classes_are_in_the_given_order_or_sorted(tmp_path: Path) -> None:
    numbers = table(tmp_path, "path,label\nx,10\ny,9\nz,1\n")
    assert CsvTable(numbers).class_names == ("1", "9", "10")
    words = table(tmp_path, "path,label\nx,10\ny,9\nz,b\n")
    assert CsvTable(words).class_names == ("10", "9", "b")
    given = CsvTable(words, classes=["b", "unused", "9", "10"])
    assert given.class_names == ("b", "unused", "9", "10")
    assert given.targets.tolist() == [3, 2, 0]


def test_a_missing_image_is_found_out_when_it_is_read(tmp_path: Path) -> None:
    source = CsvTable(table(tmp_path, "path,label\nx.png,a\ny.png,b\n"))
    with pytest.raises(BadImage, match="no such file"):
        source.load(0)
    assert len(source.fingerprint()) == 32


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("path,labels\nx,a\n", {}, r'no column "label"\. Did you mean "labels"\? It has: path, labels\.'),
        ("path,label\nx,a\n", {"split_column": "fold"}, 'no column "fold"'),
        ("path,label\nx,a\ny,catt\n", {"classes": ["a", "cat"]}, r'line 3: the label "catt" .* Did you mean "cat"'),
        ("path,label,split\nx,a,trian\n", {}, r'line 2: no split is called "trian"\. Did you mean "train"'),
        ("path,label\nx,a\n,b\n", {}, 'line 3: nothing in the column "path"'),
        ("path,label\nx\n", {}, 'line 2: nothing in the column "label"'),
        ("path,label\n", {}, "no image at all"),
        ("", {}, "got an empty file"),
        ("path,label\nx,a\ny,a\n", {}, "one only: a"),
        ("path,label,split\nx,a,train\n./x,b,test\n", {}, 'expected each id once, got "x" 2 times, in the splits'),
        ("path,label\nx,a\ny,b\n", {"root": "nowhere"}, "data folder not found"),
        ("path,label\nx,a\ny,b\n", {"delimiter": ";;"}, "cannot be read as CSV"),
    ],
)
def test_invalid_tables(tmp_path: Path, text: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CsvTable(table(tmp_path, text), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\nmy,cat.png,cat\n", "line 2: expected 2 cells as in the header, got 3. A cell that contains ','"),
        ("path,label\r\nx,a\r\n\r\nmy,cat.png,cat\r\n", "line 4: expected 2 cells"),
        ('path,label\n"my\ncat.png",a\nx,y,z\n', "line 4: expected 2 cells"),
        ("path,label,path\nx,a,y\n", 'line 1: the column name "path" occurs twice'),
        ("path,label,note,note\nx,a,1,2\n", 'line 1: the column name "note" occurs twice'),
        ('path,label\nx,a\n"y,b\nz,c\n', "line 3: cannot be read as CSV"),
        ('path,label\nx,a\n"y"z,b\n', "line 3: cannot be read as CSV"),
        (
            "path,label\nx,a\nC:\\images\\y.png,b\n",
            r"line 3, column \"path\": \"C:\\images\\y\.png\" is an absolute Windows path",
        ),
        ("path,label\nx,a\n\\\\server\\y.png,b\n", "line 3.* is an absolute Windows path"),
    ],
)
def test_malformed_rows_are_rejected_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CsvTable(table(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        '\ufeffpath,label\r\n"my,cat.png",cat\r\n\r\nb.png,dog\r\n',
        'path;label\n"my,cat.png";cat\nb.png;dog\n',
        "label\tpath\ncat\tmy,cat.png\ndog\tb.png\n",
        'path, label,\n"my,cat.png", "cat",\nb.png,dog,,\n\n',
        'path,label\r"my,cat.png",cat\rb.png,dog\r',
    ],
)
def test_quotes_line_ends_delimiters_and_empty_lines(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_bytes(text.encode())
    source = CsvTable(str(tmp_path / "labels.csv"))
    assert source.ids == ["my,cat.png", "b.png"]
    assert [source.class_names[target] for target in source.targets] == ["cat", "dog"]


def test_backslashes_separate_folders(classes: Writer) -> None:
    root = classes({"a": 1, "b": 1})
    (root / "a" / "000.png").rename(root / "odd\\name.png")
    source = CsvTable(table(root, "path,label\nodd\\name.png,x\n.\\b\\000.png,y\n"))
    assert source.ids == ["odd\\name.png", "b/000.png"]
    assert [source.load(row).shape for row in range(2)] == [(3, 12, 12)] * 2


@pytest.mark.parametrize(
    ("given", "tried", "near"),
    [
        ("b/000", "b/000", "Did you mean 000.png"),
        ("b/000.PNG", "b/000.PNG", "Did you mean 000.png"),
        ("B/000.png", "B/000.png", "has no folder B"),
        ("c/d/000.png", "c/d/000.png", "has no folder c"),
    ],
)
def test_a_missing_image_is_reported_with_the_path_that_was_tried(
    classes: Writer, given: str, tried: str, near: str
) -> None:
    root = classes({"b": 1})
    with pytest.raises(BadImage) as caught:
        CsvTable(table(root, f"path,label\n{given},x\nb/000.png,y\n")).load(0)
    assert caught.value.reason.startswith(f"there is no such file: {root / tried}")
    assert near in caught.value.reason


def test_classes_may_be_numbers(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label\nx,1\ny,0\n")
    source = SOURCES.build({"name": "csv", "file": file, "classes": [1, 0]}, "data.source")
    assert source.class_names == ("1", "0")
    assert source.targets.tolist() == [0, 1]


def test_nfc_and_nfd_labels_are_one_class(tmp_path: Path) -> None:
    source = CsvTable(table(tmp_path, "path,label\nx,caf\u00e9\ny,cafe\u0301\nz,tea\n"))
    assert source.class_names == ("caf\u00e9", "tea")
    assert source.targets.tolist() == [0, 0, 1]


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="CSV file not found"):
        CsvTable(str(tmp_path / "missing.csv"))
    with pytest.raises(UserError, match="got a folder"):
        CsvTable(str(tmp_path))
    (tmp_path / "latin.csv").write_bytes("path,label\nx,é\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        CsvTable(str(tmp_path / "latin.csv"))


def test_several_labels_an_image_and_further_columns(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("path,label,age\nx,wet|cold,3\ny,,4\nz, cold ,5\n")
    source = CsvTable(str(tmp_path / "tags.csv"), label_separator="|")
    assert source.class_names == ("cold", "wet")
    assert source.targets.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert source.columns["age"].tolist() == ["3", "4", "5"]
    (tmp_path / "table.csv").write_text("path,wet,cold\nx,1,1\ny,0,False\n")
    table = CsvTable(str(tmp_path / "table.csv"), label_column=["wet", "cold"])
    assert table.class_names == ("wet", "cold")
    assert table.targets.tolist() == [[1, 1], [0, 0]]
    (tmp_path / "table.csv").write_text("path,wet,cold\nx,1,1\ny,0,maybe\n")
    with pytest.raises(UserError, match=r"line 3: column \"cold\": expected 1, 0, true or false, got 'maybe'"):
        CsvTable(str(tmp_path / "table.csv"), label_column=["wet", "cold"])
    with pytest.raises(UserError, match=r'line 2: the label "cold" is no class'):
        CsvTable(str(tmp_path / "tags.csv"), label_separator="|", classes=["wet", "dry"])
