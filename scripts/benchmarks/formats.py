"""Time PLY and SPZ: python scripts/benchmark_formats.py [--count 500000] [--device cpu]

Prints the median of each operation beside plyfile's own writer; the last line is the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
import zstandard
from plyfile import PlyData, PlyElement

from pipeline import ply, spz
from pipeline.splats.splats import Splats
from pipeline.splats.spz_quantisation import quantise


def random_splats(count: int) -> Splats:
    """A cloud whose values spread as widely as those of a generated asset."""
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


def write_with_plyfile(splats: Splats) -> bytes:
    """The same file with plyfile, from a structured array filled column by column."""
    names = ply.read_header(ply.to_bytes(splats)).vertex.properties
    zeros = torch.zeros_like(splats.means)
    fields = [splats.means, zeros, splats.f_dc, splats.opacity_logits[:, None], splats.log_scales, splats.quaternions]
    table = np.empty(len(splats), [(name, "<f4") for name in names])
    for name, column in zip(names, torch.cat(fields, dim=1).numpy().T, strict=True):
        table[name] = column
    file = BytesIO()
    PlyData([PlyElement.describe(table, "vertex")], byte_order="<").write(file)
    return file.getvalue()


def median_ms(operation: Callable[[], object], repeats: int, device: str) -> float:
    """Median wall time in milliseconds after two warm-ups; a CUDA device is synchronised."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        operation()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[2:])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=500_000, help="gaussians (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="timed repetitions (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where the splats live (default: %(default)s)")
    arguments = parser.parse_args()
    on_host = random_splats(arguments.count)
    splats = on_host.to(arguments.device)
    container = spz.to_bytes(splats)
    if write_with_plyfile(on_host) != ply.to_bytes(splats):
        raise SystemExit("plyfile writes other bytes")
    file = ply.to_bytes(splats)

    operations: dict[str, Callable[[], object]] = {
        "ply_write": lambda: ply.to_bytes(splats),
        "ply_write_without_normals": lambda: ply.to_bytes(splats, normals=False),
        "ply_write_plyfile": lambda: write_with_plyfile(on_host),
        "ply_read": lambda: ply.from_bytes(file),
        "spz_encode": lambda: spz.to_bytes(splats),
        "spz_encode_one_worker": lambda: spz.to_bytes(splats, workers=1),
        "spz_quantise": lambda: quantise(splats),
        "spz_decode": lambda: spz.from_bytes(container),
        "spz_verify_round_trip": lambda: spz.verify_round_trip(splats, container),
    }
    name = "CPU" if arguments.device == "cpu" else torch.cuda.get_device_name(arguments.device)
    print(f"{arguments.count} gaussians on {name}, {torch.get_num_threads()} threads, median of {arguments.repeats}")
    times = {}
    for operation, run in operations.items():
        times[operation] = round(median_ms(run, arguments.repeats, arguments.device), 2)
        print(f"{operation:<28} {times[operation]:>9.2f} ms")
    result = {
        "count": arguments.count,
        "device": name,
        "threads": torch.get_num_threads(),
        "milliseconds": times,
        "ply_bytes": len(file),
        "spz_bytes": len(container),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "libzstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
