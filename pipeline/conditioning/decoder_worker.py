"""The process that decodes pictures of strangers: one file after another on stdin, the pixels on stdout.

It is run by its path, with the limits as arguments, and begins with a line "ready". An order is a line with the length
of a file, then the file. The answer is a line of JSON: {"size": [width, height], "mode": "RGB" or "RGBA"}, followed by
the pixels, or {"refused": reason}. The process ends with stdin, and by a signal of the kernel's when a file takes too
much time. Out of memory it ends after its answer, which says "ends": true, since its state is not known any more.
"""

import json
import os
import resource
import sys
import types
from pathlib import Path
from typing import IO

if __name__ == "__main__":
    # The package's own __init__ would load torch, which takes seconds and a gigabyte.
    package = types.ModuleType("pipeline")
    package.__path__ = [str(Path(__file__).parents[1])]
    sys.modules["pipeline"] = package

from PIL import Image

from pipeline.conditioning.image_file import read_image
from pipeline.errors import PromptError

OUT_OF_MEMORY = {"refused": "decoding the image takes too much memory: save it again as PNG", "ends": True}


def limit_resources(max_memory: int) -> None:
    """Limit this process's memory to `max_memory` bytes; let it write no files."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    memory = max_memory if hard == resource.RLIM_INFINITY else min(max_memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def allow_cpu_time(seconds: int) -> None:
    """Have the kernel end this process after so many more seconds of CPU time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def answer(file: bytes, max_side: int, output: IO[bytes]) -> None:
    """Decode a file and write the answer. Raises MemoryError, before any of it is written."""
    try:
        image = read_image(file, max_side)
        description, pixels = {"size": image.size, "mode": image.mode}, image.tobytes()
    except PromptError as error:
        description, pixels = {"refused": str(error)}, b""
    output.write(json.dumps(description).encode() + b"\n")
    output.write(pixels)
    output.flush()


def main(max_memory: int, cpu_seconds: int, max_side: int) -> None:
    """Carry out orders until stdin ends."""
    orders, output = sys.stdin.buffer, sys.stdout.buffer
    # Plugins are imported now, not within the first order's limits.
    Image.init()
    limit_resources(max_memory)
    output.write(b"ready\n")
    output.flush()
    while line := orders.readline():
        try:
            file = orders.read(int(line))
            allow_cpu_time(cpu_seconds)
            answer(file, max_side, output)
        except MemoryError:
            os.write(1, json.dumps(OUT_OF_MEMORY).encode() + b"\n")
            os._exit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
