from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from imgrec.data import BadImage, ImageDataModule, decode_image, to_channels


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_pixels_and_axes_of_a_colour_image() -> None:
    pixels = noise(5, 7, 3)
    found = decode_image(encoded(Image.fromarray(pixels), "PNG"))
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), pixels.transpose(2, 0, 1))


def test_grey_has_one_channel() -> None:
    pixels = noise(5, 7)
    assert np.array_equal(decode_image(encoded(Image.fromarray(pixels), "PNG")).numpy()[0], pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "PA"])
def test_eight_bit_modes_match_the_conversion_of_pillow(mode: str) -> None:
    image = Image.fromarray(noise(6, 6, 3)).convert("RGBA" if mode == "PA" else "RGB").convert(mode)
    kind = {"CMYK": "TIFF", "YCbCr": "TIFF", "LAB": "TIFF", "PA": "PNG"}.get(mode, "PNG")
    if mode == "PA":
        from imgrec.data import from_pil

        found = from_pil(image)
    else:
        found = decode_image(encoded(image, kind))
    grey = mode in ("1", "L", "LA")
    expected = np.array(image.convert("L" if grey else "RGB"))
    assert found.shape == (1 if grey else 3, 6, 6)
    assert np.array_equal(found.squeeze(0).numpy() if grey else found.permute(1, 2, 0).numpy(), expected)


def test_a_palette_with_transparency_logs_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    image = Image.fromarray(noise(6, 6, 3)).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    found = decode_image(encoded(image, "PNG", transparency=bytes(range(16))))
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.array(image.convert("RGB")))
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    wide = np.array([[0, 257, 256 * 128, 65535]], dtype=np.uint16)
    found = decode_image(encoded(Image.fromarray(wide), kind))
    assert found.tolist() == [[[0, 1, 128, 255]]]


def test_pixels_of_unknown_scale_are_rejected() -> None:
    with pytest.raises(BadImage, match="floating-point"):
        decode_image(encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))
    with pytest.raises(BadImage, match="32-bit"):
        decode_image(encoded(Image.fromarray(np.full((2, 2), 100_000, np.int32)), "TIFF"))


def test_colour_to_grey_is_pillows_to_the_last_bit() -> None:
    pixels = noise(60, 70, 3)
    expected = np.array(Image.fromarray(pixels).convert("L"))
    found = to_channels(torch.from_numpy(pixels).permute(2, 0, 1), 1)
    assert np.array_equal(found[0].numpy(), expected)


def test_grey_to_colour_repeats() -> None:
    grey = torch.from_numpy(noise(1, 4, 5))
    colour = to_channels(grey, 3)
    assert colour.shape == (3, 4, 5)
    assert all(torch.equal(colour[c], grey[0]) for c in range(3))
    assert to_channels(grey, 1) is grey


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_truncated_file_has_a_reason(kind: str, tmp_path: Path) -> None:
    whole = encoded(Image.fromarray(noise(64, 64, 3)), kind)
    path = tmp_path / "half"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadImage) as error:
        decode_image(path)
    assert "\n" not in error.value.reason
    if kind in ("JPEG", "PNG", "BMP"):
        assert error.value.reason == "it is truncated: its end is missing"


def test_plain_reasons(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in {
        "empty.jpg": "the file is empty",
        "text.jpg": "it is not an image in a format that can be read",
        "folder.jpg": "it is a folder, not a file",
        "missing.jpg": "there is no such file",
    }.items():
        with pytest.raises(BadImage) as error:
            decode_image(tmp_path / name)
        assert error.value.reason == reason


def outcome(data: bytes) -> str:
    try:
        decode_image(data)
    except BadImage as error:
        return "bad" if error.reason else "bad without a reason"
    return "read"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
def test_damaged_bytes_raise_bad_image_for_any_error_of_pillow() -> None:
    """Every file with some bytes overwritten either decodes or is a BadImage: nothing else comes out."""
    draws = np.random.default_rng(0)
    outcomes = set()
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "PPM"):
        whole = encoded(Image.fromarray(noise(16, 16, 3)), kind)
        for _ in range(40):
            data = bytearray(whole)
            for place in draws.integers(0, min(len(data), 200), 6):
                data[place] = draws.integers(256)
            outcomes.add(outcome(bytes(data)))
    assert outcomes == {"bad", "read"}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_rotated_by_their_exif_orientation(kind: str, orientation: int) -> None:
    image = Image.fromarray(noise(8, 24, 3)).resize((48, 16), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    found = decode_image(data)
    assert found.shape == ((3, 16, 48) if orientation < 5 else (3, 48, 16))
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.array(expected))


@pytest.mark.parametrize("exif", [b"Exif\0\0damaged", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0"])
def test_damaged_exif_makes_no_image_unreadable(exif: bytes) -> None:
    image = Image.fromarray(noise(8, 24, 3))
    assert torch.equal(decode_image(encoded(image, "JPEG", exif=exif)), decode_image(encoded(image, "JPEG")))


def test_of_an_animation_the_first_frame() -> None:
    frames = [Image.fromarray(np.full((6, 6, 3), level, np.uint8)) for level in (10, 200, 90)]
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        found = decode_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
        assert set(found.flatten().tolist()) == {10}


def test_heic_is_rejected_by_name(tmp_path: Path) -> None:
    path = tmp_path / "photo.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    with pytest.raises(BadImage, match="it is HEIC, which is not read: convert it"):
        decode_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_decompression_bomb_is_rejected(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(noise(40, 40)), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(BadImage, match="more pixels than are decoded safely"):
        decode_image(data)


def test_enormous_images_allocate_no_memory() -> None:
    data = bytearray(encoded(Image.fromarray(noise(8, 8)), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = b"\xff\xff\xff\xff"  # 65,535 x 65,535 pixels
    with pytest.raises(BadImage, match="more pixels than are decoded safely"):
        decode_image(bytes(data))


def png_of_16_bits(values: NDArray[np.int64]) -> bytes:
    """Write a PNG with 16 bits per value, grey or colour, which Pillow itself cannot write in colour."""
    height, width = values.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("cache", ["off", "memory"])
def test_images_of_16_bits_that_use_12_are_a_warning_with_their_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, channels: tuple[int, ...], cache: Any
) -> None:
    for i in range(20):
        top = 4095 if i % 4 else 65535
        values = np.random.default_rng(i).integers(0, top + 1, (8, 8, *channels))
        values[0, 0] = top
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png_of_16_bits(values))
    data = ImageDataModule(
        {"name": "folder", "root": str(tmp_path)}, cache=cache, num_workers=0, test_fraction=0.0, val_fraction=0.1
    )
    data.setup()
    list(data.train_dataloader())
    list(data.val_dataloader())
    (message,) = [record.getMessage() for record in caplog.records if "16-bit" in record.getMessage()]
    narrow, total = map(int, re.findall(r"(\d+) of (\d+) decoded images", message)[0])
    assert 0.6 < narrow / total < 0.9
    assert total >= 16
    assert "no value above 4095 (12 bits)" in message
    assert "leaves them 17 gray levels" in message


def test_images_of_8_bits_and_of_the_full_range_are_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(8):
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png_of_16_bits(np.arange(4096, 4096 + 64).reshape(8, 8) * (1 + i)))
    data = ImageDataModule({"name": "folder", "root": str(tmp_path)}, num_workers=0, test_fraction=0.0)
    data.setup()
    list(data.train_dataloader())
    assert "16-bit" not in caplog.text
