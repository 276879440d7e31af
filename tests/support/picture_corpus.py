"""Picture files of the kinds that people have, each with its right reading."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from tests.support.picture_files import (
    GREY,
    GREY_ALPHA,
    PALETTE,
    RGB,
    RGBA,
    WHITE_IS_ZERO,
    animate,
    encode,
    raw_png,
    raw_tiff,
)

SIZE = (24, 16)
# What the reading differs by where the file was compressed with losses.
LOSSY = 24


@dataclass(frozen=True)
class PictureCase:
    """A file, and the image that it must be read as, or the message that it must be refused with."""

    name: str
    make: Callable[[], bytes]
    expected: Image.Image | str
    tolerance: int = 0


def subject() -> Image.Image:
    """A picture in which no two corners are alike, of large areas, so that compression hardly changes it."""
    image = Image.new("RGB", SIZE, (90, 120, 150))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 7, 7), fill=(200, 40, 40))
    draw.rectangle((16, 0, 23, 7), fill=(40, 180, 60))
    draw.rectangle((0, 8, 7, 15), fill=(30, 40, 200))
    return image


def cutout() -> Image.Image:
    """The subject, transparent on its right half."""
    image = subject()
    image.putalpha(Image.fromarray(np.repeat([[255] * 12 + [0] * 12], SIZE[1], axis=0).astype(np.uint8)))
    return image


def ramp(highest: float, dtype: str, lowest: float = 0) -> np.ndarray:
    """Values from the lowest to the highest, [16, 24]."""
    return np.linspace(lowest, highest, SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0]).astype(dtype)


def grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")


def turned(orientation: int) -> Image.Image:
    """The subject as somebody sees it whose viewer heeds this EXIF orientation."""
    pixels = np.asarray(subject())
    flip = {1: 0, 2: 1, 3: 0, 4: 1, 5: 1, 6: 0, 7: 1, 8: 0}[orientation]
    quarters = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    return Image.fromarray(np.rot90(pixels[:, ::-1] if flip else pixels, quarters).copy())


def ordinary() -> Iterator[PictureCase]:
    image, cut = subject(), cutout()
    palette = image.quantize(8)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        for image_format in ("PNG", "TIFF", "BMP", "GIF"):
            plain = palette if mode == "P" else image.convert(mode)
            if (mode, image_format) not in (("RGBA", "BMP"), ("RGBA", "GIF"), ("RGB", "GIF")):
                expected = plain.convert("RGBA" if mode == "RGBA" else "RGB")
                yield PictureCase(f"{image_format} {mode}", lambda p=plain, f=image_format: encode(p, f), expected)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield PictureCase(f"TIFF {compression}", lambda c=compression: encode(image, "TIFF", compression=c), image)
    yield PictureCase("TIFF jpeg", lambda: encode(image, "TIFF", compression="jpeg"), image, LOSSY)
    yield PictureCase("BigTIFF", lambda: encode(image, "TIFF", big_tiff=True), image)
    for mode in ("CMYK", "YCbCr"):
        yield PictureCase(f"TIFF {mode}", lambda m=mode: encode(image.convert(m), "TIFF"), image, 3)
    red = Image.merge("LAB", [Image.new("L", SIZE, value) for value in (136, 208, 195)])
    yield PictureCase("TIFF LAB", lambda: encode(red, "TIFF"), Image.new("RGB", SIZE, (255, 0, 0)), 12)
    smooth = {"quality": 95, "subsampling": 0}
    for mode in ("L", "RGB", "CMYK"):
        expected = image.convert(mode).convert("RGB")
        yield PictureCase(f"JPEG {mode}", lambda m=mode: encode(image.convert(m), "JPEG", **smooth), expected, LOSSY)
    yield PictureCase("JPEG progressive", lambda: encode(image, "JPEG", progressive=True, **smooth), image, LOSSY)
    yield PictureCase("JPEG of several pictures", lambda: animate([image, image], "MPO", **smooth), image, LOSSY)
    yield PictureCase("WebP", lambda: encode(image, "WEBP", quality=95), image, 70)
    yield PictureCase("WebP lossless", lambda: encode(image, "WEBP", lossless=True), image)
    yield PictureCase("WebP alpha", lambda: encode(cut, "WEBP", lossless=True, exact=True), cut)
    yield PictureCase("PNG alpha", lambda: encode(cut), cut)
    yield PictureCase("PNG grey and alpha", lambda: encode(cut.convert("LA")), cut.convert("LA").convert("RGBA"))
    yield PictureCase("TIFF alpha", lambda: encode(cut, "TIFF"), cut)
    yield PictureCase("PNG bytes after the end", lambda: encode(image) + b"rest", image)
    for size in ((1, 1), (4096, 1), (1, 4096)):
        tiny = Image.new("RGB", size, (10, 20, 30))
        yield PictureCase(f"PNG {size[0]} x {size[1]}", lambda t=tiny: encode(t), tiny)


def transparent_colours() -> Iterator[PictureCase]:
    """One colour, or entries of a palette, that stand for transparency."""
    for depth in (1, 2, 4, 8, 16):
        levels = np.arange(2**depth)[:: max(1, 2**depth // 256)][:256]
        values = np.resize(levels, (16, 16))
        for key in (0, int(levels[-1])):
            shade = values >> 8 if depth == 16 else values * 255 // (2**depth - 1)
            alpha = np.where(values == key, 0, 255)
            expected = Image.fromarray(np.stack([shade] * 3 + [alpha], axis=2).astype(np.uint8))
            yield PictureCase(
                f"PNG grey of {depth} bits, {key} transparent",
                lambda v=values, d=depth, k=key: raw_png(v, GREY, d, tRNS=struct.pack(">H", k)),
                expected,
            )
    colours = np.asarray(subject()).astype(int)
    alpha = np.where((colours == (200, 40, 40)).all(axis=2), 0, 255)
    expected = Image.fromarray(np.dstack([colours, alpha]).astype(np.uint8))
    for depth, factor in ((8, 1), (16, 257)):
        key = struct.pack(">3H", 200 * factor, 40 * factor, 40 * factor)
        yield PictureCase(
            f"PNG colour of {depth} bits, one transparent",
            lambda d=depth, f=factor, k=key: raw_png(colours * f, RGB, d, tRNS=k),
            expected,
        )
    indices = np.resize([0, 1, 2, 3], (4, 4))
    entries = [(9, 9, 9), (200, 0, 0), (0, 200, 0), (0, 0, 200)]
    for depth in (2, 4, 8):
        for alphas in (b"\0", b"\xff\0", b"\0\x80\xff"):
            whole = [*alphas, 255, 255, 255, 255][:4]
            table = np.array([(*entry, opacity) for entry, opacity in zip(entries, whole, strict=True)], np.uint8)
            yield PictureCase(
                f"PNG palette of {depth} bits, alphas {alphas.hex()}",
                lambda d=depth, a=alphas: raw_png(
                    indices, PALETTE, d, PLTE=bytes(value for entry in entries for value in entry), tRNS=a
                ),
                Image.fromarray(table[indices]),
            )
    palette = Image.new("P", SIZE, 0)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.paste(1, (4, 4, 12, 12))
    expected = Image.new("RGBA", SIZE)
    expected.paste((200, 100, 50, 255), (4, 4, 12, 12))
    yield PictureCase("GIF with a transparent colour", lambda: encode(palette, "GIF", transparency=0), expected)


def deep() -> Iterator[PictureCase]:
    """More than 8 bits a channel."""
    full = grey(ramp(255, "f8") // 1)
    for name, highest, dtype in (
        ("16 bits", 65535, "u2"), ("12 bits in 16", 4095, "u2"), ("10 bits in 16", 1023, "u2"),
        ("8 bits in 16", 255, "u2"), ("32 bits, of which 16", 65535, "u4"),
        ("32 bits, of which 16, signed", 65535, "i4"),
        ("32 bits, of which 8", 255, "u4"), ("all of 32 bits", 2**32 - 1, "u4"), ("31 bits", 2**31 - 1, "i4"),
        ("labels", 5, "u2"), ("fractions", 1, "f4"), ("float bytes", 255, "f4"),
        ("float 16 bits", 65535, "f4"), ("huge floats", 3e38, "f4"), ("tiny floats", 1e-30, "f4"),
    ):  # fmt: skip
        values = ramp(highest, dtype)
        expected = grey(values.astype(float) / highest * 255)
        for order in "<>":
            if dtype == "u4" and order == ">":
                # Pillow does not read these.
                continue
            yield PictureCase(
                f"TIFF grey, {name}, {'little' if order == '<' else 'big'} endian, {highest}",
                lambda v=values, o=order: raw_tiff(v, order=o),
                expected,
                1,
            )
        if dtype == "u2":
            yield PictureCase(f"PNG grey, {name}", lambda v=values: raw_png(v, GREY, 16), expected, 1)
    for name, lowest, highest, dtype in (
        ("integers", -1000, 1000, "i4"),
        ("floats", -1, 1, "f4"),
        ("huge", -3e38, 3e38, "f4"),
    ):
        yield PictureCase(f"TIFF grey, negative {name}", lambda a=(highest, dtype, lowest): raw_tiff(ramp(*a)), full, 1)
    white = grey(255 - ramp(255, "f8"))
    for dtype, highest in (("u2", 65535), ("f4", 1)):
        yield PictureCase(
            f"TIFF grey, white is zero, {dtype}",
            lambda a=(highest, dtype): raw_tiff(ramp(*a), WHITE_IS_ZERO),
            white,
            1,
        )
    yield PictureCase(
        "TIFF of float64", lambda: raw_tiff(ramp(1, "f8")), "as a TIFF picture, but is .* of a rare layout"
    )
    for name, value in (("NaN", np.nan), ("infinity", np.inf), ("minus infinity", -np.inf)):
        spoiled = ramp(1, "f4")
        spoiled[3, 4] = value
        yield PictureCase(f"TIFF grey with {name}", lambda v=spoiled: raw_tiff(v), "has 1 pixels that are NaN or infin")
    cut = np.asarray(cutout()).astype(int)
    yield PictureCase("PNG colour of 16 bits", lambda: raw_png(cut[..., :3] * 257, RGB, 16), subject())
    yield PictureCase("PNG colour and alpha of 16 bits", lambda: raw_png(cut * 257, RGBA, 16), cutout())
    shade = cut[..., [0, 3]]
    expected = Image.fromarray(shade.astype(np.uint8)).convert("RGBA")
    yield PictureCase("PNG grey and alpha of 16 bits", lambda: raw_png(shade * 257, GREY_ALPHA, 16), expected)
    yield PictureCase(
        "PNG colour of 12 bits in 16", lambda: raw_png(cut[..., :3] * 16, RGB, 16), "no more than 3327 of the 65535"
    )
    for depth in (1, 2, 4):
        values = np.resize(np.arange(2**depth), (6, 6))
        yield PictureCase(
            f"PNG grey of {depth} bits",
            lambda v=values, d=depth: raw_png(v, GREY, d),
            grey(values * 255 // (2**depth - 1)),
        )


def oriented() -> Iterator[PictureCase]:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for image_format, options in (
            ("JPEG", {"quality": 95, "subsampling": 0}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
        ):  # fmt: skip
            name = f"{image_format} {options.get('compression', '')} of orientation {orientation}"
            tolerance = LOSSY if image_format == "JPEG" else 0
            yield PictureCase(
                name,
                lambda f=image_format, o=options, e=exif: encode(subject(), f, exif=e, **o),
                turned(orientation),
                tolerance,
            )
        for image_format in ("PNG", "WEBP"):
            expected = turned(orientation)
            expected.putalpha(77)
            yield PictureCase(
                f"{image_format} with alpha of orientation {orientation}",
                lambda f=image_format, e=exif: encode(
                    Image.merge("RGBA", (*subject().split(), Image.new("L", SIZE, 77))), f, exif=e, lossless=True
                ),
                expected,
            )
        values = np.asarray(subject().convert("L")).astype(np.uint16) * 257
        yield PictureCase(
            f"TIFF of 16 bits, orientation {orientation}",
            lambda v=values, o=orientation: raw_tiff(v, orientation=o),
            turned(orientation).convert("L").convert("RGB"),
        )
    for exif in (b"rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        yield PictureCase(f"PNG with damaged EXIF {exif.hex()}", lambda e=exif: encode(subject(), exif=e), subject())


def animations() -> Iterator[PictureCase]:
    empty, cut = Image.new("RGBA", SIZE), cutout()
    ghost = cut.copy()
    ghost.putalpha(cut.getchannel("A").point(lambda alpha: alpha // 2))
    black, image = Image.new("RGB", SIZE), subject()
    for image_format, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        for name, frames in (("nothing", [empty, empty, cut]), ("a ghost", [ghost, cut]), ("all", [cut, empty])):
            yield PictureCase(
                f"{image_format} animation that begins with {name}",
                lambda f=image_format, o=options, s=frames: animate(s, f, **o),
                cut,
            )
        yield PictureCase(
            f"{image_format} animation that begins in black",
            lambda f=image_format, o=options: animate([black, black, image], f, **o),
            image,
        )
        yield PictureCase(
            f"{image_format} animation of nothing",
            lambda f=image_format, o=options: animate([empty, empty], f, **o),
            empty,
        )
    palette = image.quantize(8)
    yield PictureCase(
        "GIF animation that begins in black", lambda: animate([black, palette], "GIF"), palette.convert("RGB")
    )


def refused() -> Iterator[PictureCase]:
    whole = encode(subject())
    for name, data, message in (
        ("nothing", b"", "not an image of a known format"),
        ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid", "run `git lfs pull`"),
        ("a web page", b"\n <!DOCTYPE html><html></html>", "but a web page: download the file itself"),
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1", "but a HEIC picture: save it as PNG or JPEG"),
        ("AVIF", b"\0\0\0\x1cftypavif\0\0\0\0avif", "but an AVIF picture"),
        ("a video", b"\0\0\0\x1cftypisom\0\0\0\0mp41", "but a video"),
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "but an SVG drawing"),
        ("SVG with a byte-order mark", b"\xef\xbb\xbf<?xml version='1.0'?><svg/>", "but an XML document"),
        ("PDF", b"%PDF-1.7", "but a PDF"),
        ("Photoshop", b"8BPS\0\x01", "but a Photoshop document"),
        ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n", "but a JPEG 2000 picture"),
        ("JPEG XL", b"\xff\x0a\xfa\x1f", "but a JPEG XL picture"),
        ("an icon", b"\0\0\x01\0\x01\0", "but an icon"),
        ("splats", b"ply\nformat ascii 1.0\n", "but a PLY"),
        ("a TIFF of an unknown layout", b"II*\0\x08\0\0\0\0\0\0\0\0\0", "begins as a TIFF picture, but is damaged"),
        ("the start of a PNG", whole[:8], "begins as a PNG picture, but is damaged"),
        ("half a PNG", whole[: len(whole) // 2], "cannot be decoded"),
        ("a PNG that is too wide", raw_png(np.zeros((1, 4097), int), GREY, 8), "4097x1 pixels, more than 4096 a side"),
    ):  # fmt: skip
        yield PictureCase(name, lambda d=data: d, message)


PICTURES = [
    case
    for family in (ordinary, transparent_colours, deep, oriented, animations, refused)
    for case in {case.name: case for case in family()}.values()
]
