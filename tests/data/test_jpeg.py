from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrec.data.decoding import jpeg
from imgrec.data.decoding.jpeg import decode_jpeg, read_header


def encoded(mode: str, size: tuple[int, int] = (37, 21), **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_pixels_are_pillows(mode: str, subsampling: str, progressive: bool) -> None:
    pytest.importorskip("simplejpeg")
    data = encoded(mode, subsampling=subsampling, progressive=progressive, quality=80)
    found = decode_jpeg(data)
    assert found is not None
    expected = np.array(Image.open(io.BytesIO(data)))
    assert np.array_equal(found[0].squeeze(), expected)
    assert found[1] == 1


@pytest.mark.slow
def test_the_pixels_of_photographs_are_pillows(real_data: Path) -> None:
    pytest.importorskip("simplejpeg")
    compared = 0
    for path in [*sorted((real_data / "photos").iterdir()), *sorted((real_data / "cifar10/test/cat").iterdir())[:500]]:
        found = decode_jpeg(path.read_bytes())
        if found is not None:
            assert np.array_equal(found[0].squeeze(), np.array(Image.open(path))), path
            compared += 1
    assert compared > 900


@pytest.mark.parametrize("mode", ["CMYK"])
def test_other_files_are_decoded_by_pillow(mode: str) -> None:
    assert decode_jpeg(encoded(mode)) is None
    assert decode_jpeg(b"") is None
    assert decode_jpeg(b"\xff\xd8\xff") is None
    whole = encoded("RGB")
    assert decode_jpeg(whole[: len(whole) // 2]) is None
    assert decode_jpeg(b"\x89PNG" + whole) is None


def test_without_the_package_all_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_simplejpeg", lambda: None)
    assert decode_jpeg(encoded("RGB")) is None


def test_a_header_contains_size_components_and_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    header = read_header(encoded("RGB", exif=exif))
    assert header == (21, 37, 3, 6)
    assert read_header(encoded("L")) == (21, 37, 1, 1)
    assert read_header(encoded("CMYK")) is None


def test_any_cut_of_a_header_is_no_header_and_no_error() -> None:
    data = encoded("RGB")
    scan = data.index(b"\xff\xda")
    assert all(read_header(data[:end]) is None for end in range(scan + 3))
    assert read_header(data[: scan + 4]) == (21, 37, 3, 1)


def test_orientation_in_xmp_is_left_to_pillow() -> None:
    note = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    data = encoded("RGB")
    data = data[:2] + b"\xff\xe1" + (len(note) + 2).to_bytes(2, "big") + note + data[2:]
    assert read_header(data) is None
