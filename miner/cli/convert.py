"""Convert gaussian splats between .ply and .spz: python scripts/convert.py IN OUT

To .spz the bytes are those of the subnet's reference library at level 1 with one worker, to .ply those its
decompressor writes without normals.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import ply, spz
from pipeline.errors import FormatError


def main() -> int:
    """Run the command line; returns 2 after one line on stderr when the input cannot be converted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", metavar="IN", type=Path, help="a .ply or .spz file")
    parser.add_argument("target", metavar="OUT", type=Path, help="the .ply or .spz file to write")
    arguments = parser.parse_args()
    source, target = arguments.source, arguments.target
    for path in (source, target):
        if path.suffix.lower() not in (".ply", ".spz"):
            parser.error(f"{path}: expected a name that ends in .ply or .spz")
    try:
        read = ply.from_bytes if source.suffix.lower() == ".ply" else spz.from_bytes
        splats = read(source.read_bytes())
        if target.suffix.lower() == ".ply":
            data = ply.to_bytes(splats, normals=False)
        else:
            data = spz.to_bytes(splats, level=1, workers=1, lossy=True)
            if reason := spz.loss_reason(splats):
                print(f"{source}: warning: values are lost: {reason}", file=sys.stderr)
        target.write_bytes(data)
    except FormatError as error:
        print(f"{source}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{target}: {len(splats)} gaussians, {len(data)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
