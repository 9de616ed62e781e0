from __future__ import annotations

import logging
from pathlib import Path

import pytest

from imgrec.data import Digits, ImageDataModule, split_source
from imgrec.data.wrappers.corrections import apply_corrections, read_exclusions, read_relabelling
from imgrec.errors import UserError


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


AUDIT = """id,split,class,finding,detail,related,action
0000,train,0,empty,the file is empty,,exclude
0001,train,1,label_error,looks like 7,,relabel: 7
0002,train,2,grey,,,
0000,train,0,duplicate,"the same, again",0005,exclude
"""


def test_the_list_of_an_audit_is_read_by_its_actions(tmp_path: Path) -> None:
    file = write(tmp_path / "findings.csv", AUDIT)
    assert read_exclusions(file) == ["0000"]
    assert read_relabelling(file) == {"0001": "7"}


def test_a_list_written_by_hand_needs_ids_alone(tmp_path: Path) -> None:
    assert read_exclusions(write(tmp_path / "a.csv", "id\na b.jpg \nc.jpg\n\n")) == ["a b.jpg ", "c.jpg"]
    assert read_relabelling(write(tmp_path / "b.csv", "id,label\nx,cat\n")) == {"x": "cat"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\nx\n", 'no column "id"'),
        ("", "got an empty file"),
        ("id\nx\n", 'expected a column "label" or "action"'),
        ("id,label\nx,cat\nx,dog\n", 'line 3 gives "x" a second class: cat and dog'),
        ("id,label\nx,cat\ny,\n", "line 3: the new class is empty"),
        ("id,label\nx,cat\n,dog\n", 'line 3: nothing in the column "id"'),
        ("id,action\nx,relabel: cat\ny,relabel:\n", "line 3: the new class is empty"),
        ("id,action\nx,exlude\n", 'line 2: there is no action "exlude". Did you mean "exclude"'),
        ("id,label\nmy,x.png,cat\n", "line 2: expected 2 cells as in the header, got 3"),
        ("id,label,label\nx,cat,dog\n", 'line 1: the column name "label" occurs twice'),
    ],
)
def test_an_unreadable_list_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_relabelling(write(tmp_path / "list.csv", text))
    with pytest.raises(UserError, match=r"data\.exclude: CSV file not found"):
        read_exclusions(tmp_path / "nowhere.csv")


def test_excluded_images_do_not_change_the_split_of_others() -> None:
    source = Digits()
    splits = split_source(source)
    gone = [source.ids[row] for row in [*splits.train[:200], *splits.val[:3], *splits.test[5:9]]]
    same, after = apply_corrections(source, splits, gone)
    assert same is source
    assert after.train.tolist() == splits.train[200:].tolist()
    assert after.val.tolist() == splits.val[3:].tolist()
    assert after.test.tolist() == [*splits.test[:5], *splits.test[9:]]


def test_new_labels_leave_splits_and_images_as_they_are() -> None:
    source = Digits()
    splits = split_source(source)
    name = source.ids[int(splits.train[0])]
    changed, after = apply_corrections(source, splits, labels={name: "9"})
    assert after is splits
    assert changed.targets[splits.train[0]] == 9
    assert source.targets[splits.train[0]] != 9 or source.class_names[9] == "9"
    assert (changed.targets != source.targets).sum() <= 1
    assert changed.load(3).equal(source.load(3))


def test_lists_that_do_not_fit_the_data_are_rejected(caplog: pytest.LogCaptureFixture) -> None:
    source = Digits()
    splits = split_source(source)
    with pytest.raises(UserError, match="the data has none of these 2 images"):
        apply_corrections(source, splits, ["a", "b"])
    with pytest.raises(UserError, match='has no class "nine"'):
        apply_corrections(source, splits, labels={"0000": "nine"})
    zeros = [source.ids[row] for row in splits.train if source.targets[row] == 0]
    with pytest.raises(UserError, match=r'data\.exclude: after this there is no training image of the class "0"'):
        apply_corrections(source, splits, zeros)
    with caplog.at_level(logging.WARNING):
        apply_corrections(source, splits, ["a", "0000"])
    assert "1 of 2 images are not in the data" in caplog.text


def test_the_data_module_reads_both(tmp_path: Path) -> None:
    file = write(tmp_path / "list.csv", AUDIT)
    plain = ImageDataModule("digits", channels=1)
    amended = ImageDataModule("digits", channels=1, exclude=file, relabel=file)
    plain.setup()
    amended.setup()
    assert sum(amended.split_sizes().values()) == sum(plain.split_sizes().values()) - 1
    assert "0000" not in {amended.source.ids[row] for part in vars(amended.splits).values() for row in part}
    assert amended.source.targets[amended.source.ids.index("0001")] == 7
    assert amended.fingerprint != plain.fingerprint
    only = ImageDataModule("digits", channels=1, exclude=file)
    only.setup()
    assert only.fingerprint not in (plain.fingerprint, amended.fingerprint)


def test_a_missing_list_is_rejected_before_any_data_is_read() -> None:
    with pytest.raises(UserError, match=r"data\.relabel: CSV file not found"):
        ImageDataModule("digits", relabel="nowhere.csv")
