"""Compare this package's renderer with a picture that a validator drew of the same splats.

    python -m scripts.validation.renderer SPLATS PICTURE

Draws the splats as the picture was, and prints the differences in steps of 1/255. Recorded results: renderer.md beside
this file.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline import orbit, ply, spz
from pipeline.scoring.views import normalise_as_validator, render_as_validator


def main() -> int:
    """Run the command line; the defaults are a validator's camera."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("splats", type=Path, help="the .ply or .spz file, upper side at +y")
    parser.add_argument("picture", type=Path, help="the picture that the validator drew of it, on white")
    parser.add_argument("--azimuth", type=float, default=0.0, help="degrees")
    parser.add_argument("--elevation", type=float, default=-15.0, help="degrees; negative looks down")
    parser.add_argument("--radius", type=float, default=2.5, help="distance of the camera")
    parser.add_argument("--extent", type=float, default=1.5, help="length of the longest side of the drawn object")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    with Image.open(arguments.picture) as picture:
        theirs = np.asarray(picture.convert("RGB")).astype(int)
    read = ply.from_bytes if arguments.splats.suffix == ".ply" else spz.from_bytes
    splats = normalise_as_validator(read(arguments.splats.read_bytes()).to(arguments.device), arguments.extent)
    camera = orbit((arguments.azimuth,), arguments.elevation, arguments.radius, size=theirs.shape[0])
    started = time.perf_counter()
    with torch.inference_mode():
        ours = render_as_validator(splats, camera)[0].cpu().numpy().astype(int)
    seconds = time.perf_counter() - started
    difference = np.abs(ours - theirs)
    print(f"{len(splats)} gaussians at {theirs.shape[1]} x {theirs.shape[0]} on {arguments.device}: {seconds:.1f} s")
    print(f"covered: {(theirs.min(axis=2) < 255).mean():.1%} of the picture")
    off = (difference > 1).sum()
    print(f"largest difference {difference.max()} of 255, mean {difference.mean():.2e}; {off} values off by over 1")
    return 0


if __name__ == "__main__":
    sys.exit(main())
