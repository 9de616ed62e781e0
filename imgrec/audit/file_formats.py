"""What format a file is of, by its first bytes and by its ending."""

from __future__ import annotations

from pathlib import Path

_ENDINGS = {
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
_BY_ENDING = {ending: name for name, endings in _ENDINGS.items() for ending in endings.split()}
_STARTS = {
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
    """The image format that the first 16 bytes of a file tell, or ``None``.

    >>> format_of_content(bytes.fromhex("89504e470d0a1a0a"))
    'PNG'
    """
    for start, name in _STARTS.items():
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    return "PNM" if head[:1] == b"P" and head[1:2] in b"1234567" and head[2:3].isspace() else None


def format_of_name(name: str | Path) -> str | None:
    """The image format that the ending of a name stands for, or ``None``.

    >>> format_of_name("a.JPG")
    'JPEG'
    """
    return _BY_ENDING.get(Path(name).suffix.lower())


def is_cut_off(path: Path) -> bool:
    """Whether a file that cannot be decoded is the beginning of an image: what its format ends with is not there."""
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
