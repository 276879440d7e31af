"""What a file is by its first bytes, so that one that cannot be read is refused by its own name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FileKind:
    """A kind of files: its name with an article, and what a person who has one can do to use it here."""

    name: str
    cure: str
    is_read: bool = False
    """Whether such files are read, so that this one is damaged or of a rare layout."""


_TO_PICTURE = "save it as PNG or JPEG"
_TO_SPLATS = "export it as PLY from the program that wrote it"
_FETCH_AGAIN = "download the file itself"

_LFS_POINTER = FileKind("a Git LFS pointer", "run `git lfs pull`, which fetches the file that it stands for")
_WEB_PAGE = FileKind("a web page", _FETCH_AGAIN)
_BY_START = {
    b"version https://git-lfs.github.com/spec/": _LFS_POINTER,
    b"\x89PNG\r\n\x1a\n": FileKind("a PNG picture", "save it again as PNG", is_read=True),
    b"\xff\xd8\xff": FileKind("a JPEG picture", "save it again as PNG", is_read=True),
    b"GIF8": FileKind("a GIF picture", "save it again as PNG", is_read=True),
    b"BM": FileKind("a BMP picture", "save it again as PNG", is_read=True),
    b"II*\0": FileKind("a TIFF picture", "save it again as PNG with 8 bits a channel", is_read=True),
    b"MM\0*": FileKind("a TIFF picture", "save it again as PNG with 8 bits a channel", is_read=True),
    b"II+\0": FileKind("a BigTIFF picture", "save it again as PNG with 8 bits a channel", is_read=True),
    b"MM\0+": FileKind("a BigTIFF picture", "save it again as PNG with 8 bits a channel", is_read=True),
    b"8BPS": FileKind("a Photoshop document", _TO_PICTURE),
    b"%PDF": FileKind("a PDF", _TO_PICTURE),
    b"%!PS": FileKind("a PostScript file", _TO_PICTURE),
    b"<svg": FileKind("an SVG drawing", _TO_PICTURE),
    b"<?xml": FileKind("an XML document, such as an SVG drawing", _TO_PICTURE),
    b"\0\0\0\x0cjP  ": FileKind("a JPEG 2000 picture", _TO_PICTURE),
    b"\0\0\0\x0cJXL ": FileKind("a JPEG XL picture", _TO_PICTURE),
    b"\xff\x0a": FileKind("a JPEG XL picture", _TO_PICTURE),
    b"v/1\x01": FileKind("an OpenEXR picture", _TO_PICTURE),
    b"#?RADIANCE": FileKind("a Radiance HDR picture", _TO_PICTURE),
    b"\0\0\x01\0": FileKind("an icon", _TO_PICTURE),
    b"ply\n": FileKind("a PLY", "export it again as PLY"),
    b"ply\r": FileKind("a PLY", "export it again as PLY"),
    b"NGSP": FileKind("an SPZ", "export it again as SPZ"),
    b"glTF": FileKind("a GLB scene", _TO_SPLATS),
    b"PK\x03\x04": FileKind("a ZIP archive", "unpack it first; a SOG scene must be converted to PLY"),
    b"7z\xbc\xaf\x27\x1c": FileKind("a 7-Zip archive", "unpack it first"),
    b"Rar!": FileKind("a RAR archive", "unpack it first"),
    b"\x1f\x8b": FileKind("gzip data", "unpack it first"),
    b"\x28\xb5\x2f\xfd": FileKind("zstd data", "unpack it first"),
    b"\x93NUMPY": FileKind("a NumPy array", _TO_SPLATS),
    b"<!doctype html": _WEB_PAGE,
    b"<html": _WEB_PAGE,
}  # fmt: skip
_BRANDS = {
    b"avif": FileKind("an AVIF picture", _TO_PICTURE),
    b"avis": FileKind("an AVIF picture", _TO_PICTURE),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1"), FileKind("a HEIC picture", _TO_PICTURE)),
}


def identify(data: bytes) -> FileKind | None:
    """Return what the data begins as, or None if that is not known. Nothing beyond the first bytes is looked at."""
    start = bytes(data[:64])
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return FileKind("a WebP picture", "save it again as PNG", is_read=True)
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12], FileKind("a video", "save one of its pictures as PNG or JPEG"))
    # What people write may begin with a byte-order mark, with blanks, and in capitals.
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for signature, kind in _BY_START.items():
        if start.startswith(signature) or (signature[:1] in b"<v" and text.startswith(signature)):
            return kind
    return None
