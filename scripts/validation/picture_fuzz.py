"""Feed damaged pictures to the process that decodes what strangers send.

    python -m scripts.validation.picture_fuzz [--count 10000] [--seed 0]

Changes, cuts, doubles and splices pictures of each format. Exits with 0 only if each was read or refused, by name,
within the limits of time and memory. Recorded results: picture_fuzz.md beside this file.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator

from PIL import Image

from pipeline import DecoderProcess, PromptError
from scripts.validation.picture_bombs import encode

# Values at which decoders err, besides random ones.
EDGES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


def whole_pictures() -> list[bytes]:
    """Return a picture of each format, and of the variants that take other ways through its decoder."""
    noise = Image.effect_noise((48, 32), 60)
    colour = Image.merge("RGB", (noise, noise.rotate(180), noise.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    cutout = colour.copy()
    cutout.putalpha(noise)
    animation = {"save_all": True, "append_images": [colour.rotate(90), colour.rotate(180)], "duration": 50}
    flat = Image.new("RGB", colour.size, (90, 120, 150))
    return [
        encode(colour, "JPEG"), encode(colour, "JPEG", progressive=True), encode(colour.convert("CMYK"), "JPEG"),
        encode(colour, "PNG"), encode(cutout, "PNG"), encode(colour.quantize(16), "PNG"),
        encode(noise.convert("I;16"), "PNG"), encode(flat, "PNG", **animation),
        encode(colour, "TIFF"), encode(cutout, "TIFF", compression="tiff_lzw"), encode(noise.convert("F"), "TIFF"),
        encode(colour, "TIFF", compression="tiff_adobe_deflate"), encode(colour, "TIFF", compression="jpeg"),
        encode(colour.convert("1"), "TIFF", compression="group4"),
        encode(colour, "WEBP"), encode(cutout, "WEBP", lossless=True), encode(flat, "WEBP", **animation),
        encode(colour.quantize(64), "GIF"), encode(flat, "GIF", **animation), encode(colour, "BMP"),
    ]  # fmt: skip


def mutate(chance: random.Random, file: bytes, other: bytes) -> bytes:
    """Return the file with a few bytes changed, a part doubled or cut out, its end cut off, or that of another's."""
    damaged = bytearray(file)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        start = chance.randrange(len(damaged))
        end = min(start + chance.choice((1, 2, 4, 16, 256)), len(damaged))
        way = chance.random()
        if way < 0.6:
            # Most of what a decoder believes stands at the beginning.
            place = chance.randrange(min(len(damaged), chance.choice((64, 512, len(damaged)))))
            damaged[place] = chance.choice((*EDGES, chance.randrange(256)))
        elif way < 0.75:
            damaged[start:start] = damaged[start:end] * chance.choice((1, 3, 200))
        elif way < 0.9:
            del damaged[start:end]
        elif way < 0.95:
            damaged[start:] = other[start:]
        else:
            del damaged[start:]
        if not damaged:
            return b""
    return bytes(damaged)


def mutated_pictures(chance: random.Random, count: int) -> Iterator[bytes]:
    """Make damaged pictures, of all kinds in turn."""
    pictures = whole_pictures()
    for number in range(count):
        yield mutate(chance, pictures[number % len(pictures)], chance.choice(pictures))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    longest, started = 0.0, time.monotonic()
    decoder = DecoderProcess()
    for file in mutated_pictures(random.Random(options.seed), options.count):  # noqa: S311 - not for secrets
        began = time.monotonic()
        try:
            decoder.decode(file)
            outcomes["read"] += 1
        except PromptError:
            outcomes["refused"] += 1
        longest = max(longest, time.monotonic() - began)
        if not decoder.is_alive:
            outcomes["ended the process"] += 1
            decoder = DecoderProcess()
    decoder.close()
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({**outcomes, "longest_seconds": round(longest, 3), "seconds": seconds}))
    return 1 if outcomes["ended the process"] else 0


if __name__ == "__main__":
    sys.exit(main())
