"""Audit of a data set with planted faults of every kind: it finds all of them, and nothing in a clean data set."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from imgrec.audit import KINDS, Audit, audit, proposals
from imgrec.data import Folder, split_source

Opener = Callable[[str], Image.Image]

CLASSES = ("cat", "dog", "owl")


def scene(seed: int, side: int = 96) -> Image.Image:
    """Draw an image with a smooth coloured background, shapes with sharp edges, and noise."""
    draw = np.random.default_rng(seed)
    ground = Image.fromarray(draw.integers(40, 216, (4, 4, 3), dtype=np.uint8))
    image = ground.resize((side, side), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(7):
        x, y, w, h = draw.integers(0, side, 4)
        colour = tuple(int(value) for value in draw.integers(0, 256, 3))
        shape = (int(x), int(y), int(x + w // 2 + 4), int(y + h // 2 + 4))
        (pen.ellipse if draw.random() < 0.5 else pen.rectangle)(shape, fill=colour)
    noisy = np.asarray(image).astype(int) + draw.integers(-8, 9, (side, side, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def clean_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in three splits without a fault: ``train/cat/00.jpg``. Tests copy it before they write."""
    root = tmp_path_factory.mktemp("clean") / "images"
    counts = {"train": 24, "val": 5, "test": 5}
    for s, (split, count) in enumerate(counts.items()):
        for c, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i:02d}.jpg").write_bytes(jpeg(scene(10_000 * s + 1000 * c + i)))
    return root


def damaged_tiff(image: Image.Image) -> bytes:
    """Return a TIFF file whose orientation has two values instead of one, for which Pillow emits a warning."""
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", tiffinfo={274: 1})
    entry = (274).to_bytes(2, "little") + (3).to_bytes(2, "little")
    assert buffer.getvalue().count(entry + (1).to_bytes(4, "little")) == 1
    return buffer.getvalue().replace(entry + (1).to_bytes(4, "little"), entry + (2).to_bytes(4, "little"))


MIX = "train/dog"


def plant(root: Path, open_image: Opener) -> dict[str, set[str]]:
    """Add one fault or more of every kind, and return the expected ids by kind."""

    def png(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    def put(name: str, content: bytes | Image.Image) -> str:
        if isinstance(content, Image.Image):
            content = png(content) if name.endswith(".png") else jpeg(content, 95)
        (root / name).write_bytes(content)
        return name

    a, b, c, d, e, f, g, h = (open_image(f"train/cat/{i:02d}.jpg") for i in range(8))
    whole = jpeg(open_image("train/owl/20.jpg"))
    picture = png(open_image("train/owl/21.jpg"))
    found: dict[str, set[str]] = {kind: set() for kind in KINDS}
    found["empty"] = {put(f"{MIX}/empty.jpg", b"")}
    found["truncated"] = {
        put(f"{MIX}/cut.jpg", whole[: len(whole) // 2]),
        put(f"{MIX}/cut.png", picture[: len(picture) // 2]),
        put(f"{MIX}/header only.jpg", whole[:20]),
    }
    found["unreadable"] = {
        put(f"{MIX}/a page.jpg", b"<html>404: there is no such image</html>"),
        put(f"{MIX}/zeros.png", bytes(5000)),
    }
    (root / MIX / "gone.jpg").symlink_to(root / "nowhere.jpg")
    found["missing"] = {f"{MIX}/gone.jpg"}
    found["misnamed"] = {
        put(f"{MIX}/really a png.jpg", png(scene(501))),
        put(f"{MIX}/really a jpeg.png", jpeg(scene(502))),
    }
    found["damaged"] = {put(f"{MIX}/tag.tif", damaged_tiff(scene(509)))}
    found["too_small"] = {put(f"{MIX}/small.jpg", scene(503, 16))}
    found["odd_aspect"] = {put(f"{MIX}/long.jpg", scene(504, 400).crop((0, 0, 400, 50)))}
    found["blank"] = {put(f"{MIX}/blank.png", Image.new("RGB", (96, 96), (120, 130, 125)))}
    found["dark"] = {put(f"{MIX}/dark.png", Image.eval(scene(505), lambda value: value // 5))}
    found["bright"] = {put(f"{MIX}/bright.png", Image.eval(scene(506), lambda value: 196 + value // 5))}
    found["blurred"] = {put(f"{MIX}/blurred.png", scene(507).filter(ImageFilter.GaussianBlur(6)))}
    found["grey"] = {put(f"{MIX}/grey.png", scene(508).convert("L"))}
    found["duplicate"] = {put("train/cat/again.png", png(a)), "train/cat/00.jpg"}
    found["duplicate_across_splits"] = {put("test/cat/leak.png", png(b)), "train/cat/01.jpg"}
    found["duplicate_across_classes"] = {put("train/owl/cat.png", png(c)), "train/cat/02.jpg"}
    w, height = d.size
    half = d.resize((w // 2, height // 2), Image.Resampling.LANCZOS)
    found["near_duplicate"] = {put("train/cat/half.jpg", half), "train/cat/03.jpg"}
    found["near_duplicate"] |= {
        put("train/cat/larger.jpg", e.resize((w + w // 4, height + height // 4))),
        "train/cat/04.jpg",
    }
    found["near_duplicate"] |= {
        put("train/cat/brighter.jpg", Image.eval(f, lambda v: min(255, v + 12))),
        "train/cat/05.jpg",
    }
    found["near_duplicate_across_splits"] = {put("val/cat/again.jpg", jpeg(g, 25)), "train/cat/06.jpg"}
    found["near_duplicate_across_classes"] = {put("train/owl/again.jpg", jpeg(h, 25)), "train/cat/07.jpg"}
    return found


def look(root: Path, workers: int = 0) -> tuple[Audit, dict[str, set[str]]]:
    source = Folder(str(root))
    result = audit(source, split_source(source), workers=workers)
    found: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for finding in result.findings:
        found[finding.kind].add(result.inventory.id(finding.position))
    return result, found


def test_a_clean_set_has_no_finding(clean_set: Path) -> None:
    result, _ = look(clean_set)
    assert result.findings == []
    assert result.statistics.readable == result.statistics.total == 102


@pytest.mark.parametrize("workers", [0, 2])
def test_every_planted_fault_is_found_and_nothing_else(clean_set: Path, tmp_path: Path, workers: int) -> None:
    root = tmp_path / "images"
    shutil.copytree(clean_set, root)
    planted = plant(root, lambda name: Image.open(root / name).convert("RGB"))
    result, found = look(root, workers)
    del planted["label_error"], found["label_error"]  # these take predictions: tests/audit/test_label_errors.py
    assert all(planted.values())
    assert found == planted
    broken = sum(len(planted[kind]) for kind in ("empty", "truncated", "unreadable", "missing"))
    assert result.statistics.total - result.statistics.readable == broken


def test_every_planted_fault_is_found_among_photographs(tmp_path: Path) -> None:
    data = os.environ.get("IMGREC_DATA")
    if not data:
        pytest.skip("IMGREC_DATA is not set")
    root = tmp_path / "images"
    for c, name in enumerate(CLASSES):
        files = sorted((Path(data) / "sign-digits" / str(c)).iterdir())
        for split, chosen in (("train", files[:70]), ("val", files[70:80]), ("test", files[80:90])):
            (root / split / name).mkdir(parents=True)
            for i, file in enumerate(chosen):
                shutil.copy(file, root / split / name / f"{i:02d}.jpg")
    before = look(root)[1]
    planted = plant(root, lambda name: Image.open(root / name).convert("RGB").resize((100, 100)))
    _, found = look(root)
    for kind, ids in planted.items():
        # the drawings are sharper than the photographs, so that additional photographs may be reported
        assert ids <= found[kind], kind
    assert not any(before[kind] for kind in KINDS if "duplicate" in kind)


def test_proposed_changes(clean_set: Path, tmp_path: Path) -> None:
    root = tmp_path / "images"
    shutil.copytree(clean_set, root)
    planted = plant(root, lambda name: Image.open(root / name).convert("RGB"))
    result, _ = look(root)
    proposed = {result.inventory.id(f.position) for f in result.findings if f.action == "exclude"}
    broken = {id for kind in ("empty", "truncated", "unreadable", "missing") for id in planted[kind]}
    copies = {"train/cat/again.png", "train/cat/01.jpg", "train/cat/06.jpg"}
    assert proposed == broken | copies
    assert {f.action for f in result.findings} == {"exclude", "decide", ""}
    contested = {result.inventory.id(f.position) for f in result.findings if f.action == "decide"}
    assert contested == planted["duplicate_across_classes"] | planted["near_duplicate_across_classes"]
    assert {result.inventory.id(f.position) for f in proposals(result.findings, relabel=True)} == proposed


def test_a_data_set_of_small_dark_grey_images_has_no_finding(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for i in range(8):
            pixels = rng.integers(0, 40, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    assert look(tmp_path)[0].findings == []
    assert len(look(tmp_path)[0].statistics.mean) == 1
