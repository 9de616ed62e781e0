"""Warnings of decoders reach a log line with the id, and never the terminal."""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrec.data import BadImage, Folder, decode_image
from imgrec.data.decoding import image as decode_module
from imgrec.data.decoding.messages import DamagedImages, collect_libtiff, decoder_messages


def pixels(side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)).resize(
        (side, side)
    )


def fax_with_bad_codes() -> bytes:
    """Write a TIFF file with damaged Group 4 data: libtiff reports it and returns pixels."""
    buffer = io.BytesIO()
    pixels().convert("1").save(buffer, "TIFF", compression="group4")
    data = bytearray(buffer.getvalue())
    with Image.open(buffer) as image:
        place, size = image.tag_v2[273][0], image.tag_v2[279][0]  # type: ignore[attr-defined]
    data[place + size // 2] ^= 0xFF
    return bytes(data)


def two_orientations() -> bytes:
    """Write a TIFF file whose orientation has two values: Pillow warns about it and returns pixels."""
    buffer = io.BytesIO()
    pixels().save(buffer, "TIFF", tiffinfo={274: 1})
    entry = (274).to_bytes(2, "little") + (3).to_bytes(2, "little")
    return buffer.getvalue().replace(entry + (1).to_bytes(4, "little"), entry + (2).to_bytes(4, "little"))


def palette_png_with_bad_control() -> bytes:
    """Write a PNG file whose animation control has no frames: Pillow warns about it and returns pixels."""
    buffer = io.BytesIO()
    pixels().save(buffer, "PNG")
    data = buffer.getvalue()
    chunk = b"acTL" + bytes(8)
    return data[:33] + (8).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + data[33:]


def zip_with_bad_data() -> bytes:
    """Write a TIFF file with damaged Deflate data: libtiff reports it, and Pillow refuses the image."""
    buffer = io.BytesIO()
    pixels().save(buffer, "TIFF", compression="tiff_adobe_deflate")
    data = bytearray(buffer.getvalue())
    with Image.open(buffer) as image:
        place, size = image.tag_v2[273][0], image.tag_v2[279][0]  # type: ignore[attr-defined]
    data[place + size // 2] ^= 0xFF
    return bytes(data)


DAMAGED = {
    "fax.tif": (fax_with_bad_codes, "Fax4Decode"),
    "orientation.tif": (two_orientations, "too many entries"),
    "animation.png": (palette_png_with_bad_control, "APNG"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Write two classes. The first one contains the damaged files."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pixels().save(tmp_path / name / "whole.png")
    for name, (make, _) in DAMAGED.items():
        (tmp_path / "a" / name).write_bytes(make())
    (tmp_path / "b" / "zip.tif").write_bytes(zip_with_bad_data())
    return Folder(str(tmp_path))


@pytest.mark.skipif(collect_libtiff() is None, reason="libtiff is part of Pillow's extension module here")
def test_decoder_messages_are_logged_by_image_id_only(
    folder: Folder,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.WARNING, "imgrec")
    monkeypatch.setattr(logging.getLogger("imgrec"), "handlers", [])  # a command of another test may have added one
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for row, name in enumerate(folder.ids):
            monkeypatch.setattr(decode_module, "damaged_images", DamagedImages())
            caplog.clear()
            if name == "b/zip.tif":
                with pytest.raises(BadImage, match="ZIPDecode: Decoding error"):
                    folder.load(row)
            else:
                folder.load(row)
            expected = [text for each, (_, text) in DAMAGED.items() if name == f"a/{each}"]
            assert len(caplog.messages) == len(expected), name
            assert all(text in caplog.messages[0] and name in caplog.messages[0] for text in expected), name
    assert capfd.readouterr() == ("", "")


def test_the_log_counts_and_has_a_bounded_number_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    found = DamagedImages()
    for name in [*map(str, range(250)), "7", "8"]:
        found.add(name, ["bad code"])
    found.add("whole", [])
    assert len(found.ids) == 250
    assert [text.partition("damaged: ")[2] for text in caplog.messages] == [
        "0 (bad code)",
        "9 (bad code), 10 such images so far",
        "99 (bad code), 100 such images so far",
    ]


@pytest.mark.skipif(collect_libtiff() is None, reason="libtiff is part of Pillow's extension module here")
def test_messages_belong_to_the_thread_that_decodes() -> None:
    damaged, whole = fax_with_bad_codes(), io.BytesIO()
    pixels().convert("1").save(whole, "TIFF", compression="group4")

    def messages(number: int) -> bool:
        with decoder_messages() as found:
            decode_image(damaged if number % 2 else whole.getvalue())
        return bool(found)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(messages, range(80))) == [bool(number % 2) for number in range(80)]


def test_warnings_outside_of_decoding_are_as_before() -> None:
    with pytest.warns(UserWarning, match="one's own"), decoder_messages() as found:
        warnings.warn("one's own", stacklevel=1)
    assert not found
    with pytest.warns(UserWarning, match="too many entries"):
        Image.open(io.BytesIO(two_orientations())).tag_v2[274]  # type: ignore[attr-defined]
