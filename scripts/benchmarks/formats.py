"""Measure the time to write and read PLY and SPZ.

    python -m scripts.benchmarks.formats [--count 500000] [--device cpu]

Prints the median of each operation beside that of plyfile's own writer; the last line is the same as JSON.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
import torch
import zstandard
from plyfile import PlyData, PlyElement

from pipeline import Splats, ply, spz
from pipeline.splats.spz_quantisation import quantise
from scripts.benchmarks.timing import device_name, median_seconds


def random_splats(count: int) -> Splats:
    """Draw splats whose values spread as widely as those of a generated asset."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    return Splats(
        means=uniform(-0.5, 0.5, 3),
        quaternions=uniform(-1, 1, 4),
        log_scales=uniform(-8, -3, 3),
        opacity_logits=uniform(-9, 9),
        f_dc=uniform(-1.7, 1.7, 3),
    )


def write_with_plyfile(splats: Splats, names: Sequence[str]) -> bytes:
    """Return the same file as `ply.to_bytes`, written with plyfile from a structured array with the named columns."""
    zeros = torch.zeros_like(splats.means)
    fields = [splats.means, zeros, splats.f_dc, splats.opacity_logits[:, None], splats.log_scales, splats.quaternions]
    table = np.empty(len(splats), [(name, "<f4") for name in names])
    for name, column in zip(names, torch.cat(fields, dim=1).numpy().T, strict=True):
        table[name] = column
    file = BytesIO()
    PlyData([PlyElement.describe(table, "vertex")], byte_order="<").write(file)
    return file.getvalue()


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500_000, help="gaussians (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="timed repetitions (default: %(default)s)")
    parser.add_argument("--device", type=torch.device, default="cpu", help="of the splats (default: %(default)s)")
    arguments = parser.parse_args()
    splats_on_cpu = random_splats(arguments.count)
    splats = splats_on_cpu.to(arguments.device)
    spz_file, ply_file = spz.to_bytes(splats), ply.to_bytes(splats)
    names = [column.name for column in PlyData.read(BytesIO(ply_file))["vertex"].properties]
    if write_with_plyfile(splats_on_cpu, names) != ply_file:
        print("plyfile writes other bytes", file=sys.stderr)
        return 1

    operations: dict[str, Callable[[], object]] = {
        "ply_write": lambda: ply.to_bytes(splats),
        "ply_write_without_normals": lambda: ply.to_bytes(splats, normals=False),
        "ply_write_plyfile": lambda: write_with_plyfile(splats_on_cpu, names),
        "ply_read": lambda: ply.from_bytes(ply_file),
        "spz_encode": lambda: spz.to_bytes(splats),
        "spz_encode_one_worker": lambda: spz.to_bytes(splats, workers=1),
        "spz_quantise": lambda: quantise(splats),
        "spz_decode": lambda: spz.from_bytes(spz_file),
        "spz_verify_round_trip": lambda: spz.verify_round_trip(splats, spz_file),
    }
    name = device_name(arguments.device)
    print(f"{arguments.count} gaussians on {name}, {torch.get_num_threads()} threads, median of {arguments.repeats}")
    milliseconds = {}
    for operation, run in operations.items():
        milliseconds[operation] = round(1e3 * median_seconds(run, arguments.repeats), 2)
        print(f"{operation:<28} {milliseconds[operation]:>9.2f} ms")
    result = {
        "count": arguments.count, "device": name, "threads": torch.get_num_threads(), "milliseconds": milliseconds,
        "ply_bytes": len(ply_file), "spz_bytes": len(spz_file), "python": platform.python_version(),
        "torch": torch.__version__, "numpy": np.__version__, "libzstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
    }  # fmt: skip
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
