"""Image format of a file by its first bytes and by its suffix."""

from __future__ import annotations

from pathlib import Path

_SUFFIXES = {
    "JPEG": ".jpg .jpeg .jpe .jfif",
    "PNG": ".png",
    "GIF": ".gif",
    "BMP": ".bmp",
    "WebP": ".webp",
    "TIFF": ".tif .tiff",
    "PNM": ".pbm .pgm .ppm .pnm",
    "AVIF": ".avif",
    "HEIC": ".heic .heif",
}
_BY_SUFFIX = {suffix: name for name, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIC"}


def format_of_content(head: bytes) -> str | None:
    """Return the image format of a file by its first 16 bytes, or ``None`` if they match no format.

    >>> format_of_content(bytes.fromhex("89504e470d0a1a0a"))
    'PNG'
    """
    for start, name in _SIGNATURES.items():
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    return "PNM" if head[:1] == b"P" and head[1:2] in b"1234567" and head[2:3].isspace() else None


def format_of_name(name: str | Path) -> str | None:
    """Return the image format of a file by its suffix, or ``None`` if it is the suffix of no format.

    >>> format_of_name("a.JPG")
    'JPEG'
    """
    return _BY_SUFFIX.get(Path(name).suffix.lower())


def is_cut_off(path: Path) -> bool:
    """Return True if the end marker of the image format is missing in a file that cannot be decoded."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        file.seek(max(0, size - 64))
        tail = file.read()
    ends = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "GIF": b";"}
    name = format_of_content(head)
    if name in ends:
        return ends[name] not in tail[-1:] if name == "GIF" else ends[name] not in tail
    if name == "WebP":
        return size < int.from_bytes(head[4:8], "little") + 8
    return name == "BMP" and size < int.from_bytes(head[2:6], "little")
