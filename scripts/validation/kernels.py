"""Compile every Triton kernel for every card without a GPU, and see whether it fits there.

    python -m scripts.validation.kernels
    python -m scripts.validation.kernels --capability 8.6 12.0 --checkpoint text-xlarge

The fused networks of both published checkpoints' sizes, flows two blocks deep, and the rasteriser are called as
generation calls them, with a driver of Triton's that compiles for a card instead of launching. So every specialisation
has the constants and argument types that the calling code gives it. A kernel fits if the compiler can translate it, its
blocks need no more shared memory than the card lets one have, and no register is spilled to the stack; the last two are
read from the compiled code. Exit code 1: at least one does not fit. Needs Triton, and runs where TRITON_INTERPRET is
not set.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec

from pipeline.weights.random_init import CHECKPOINTS
from scripts.validation.specialisation import KIB, SHARED_MEMORY, Specialisation

DTYPES = ("float16", "bfloat16")


def show(kernels: Sequence[Specialisation]) -> None:
    """Print, for each card and kernel, how many specialisations there are and the most that one of them needs."""
    for capability in dict.fromkeys(kernel.capability for kernel in kernels):
        print(f"compute capability {capability}, {SHARED_MEMORY[capability] // KIB} KiB of shared memory a block")
        here = [kernel for kernel in kernels if kernel.capability == capability]
        for name in sorted({kernel.kernel for kernel in here}):
            same = [kernel for kernel in here if kernel.kernel == name]
            shared, registers, stack = (max(getattr(k, key) for k in same) for key in ("shared", "registers", "stack"))
            print(
                f"  {name:22} {len(same):3} specialisations, at most {shared / KIB:6.1f} KiB shared, "
                f"{registers:3} registers, {stack} bytes spilled"
            )
    for kernel in kernels:
        if not kernel.fits:
            print(f"does not fit: {kernel}")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", nargs="+", choices=SHARED_MEMORY, default=[*SHARED_MEMORY])
    parser.add_argument("--checkpoint", nargs="+", choices=CHECKPOINTS, default=[*CHECKPOINTS])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=[*DTYPES])
    arguments = parser.parse_args()
    if find_spec("triton") is None:
        parser.error("Triton is not installed: pip install triton")
    import torch
    import triton

    from scripts.validation.cross_compilation import check_card

    start = time.perf_counter()
    dtypes = [getattr(torch, name) for name in arguments.dtype]
    kernels = [
        kernel for capability in arguments.capability for kernel in check_card(capability, arguments.checkpoint, dtypes)
    ]
    show(kernels)
    fitting = sum(kernel.fits for kernel in kernels)
    print(f"{fitting} of {len(kernels)} fit; Triton {triton.__version__}, {time.perf_counter() - start:.0f} s")
    print(json.dumps([asdict(kernel) | {"fits": kernel.fits} for kernel in kernels]))
    return 0 if fitting == len(kernels) else 1


if __name__ == "__main__":
    sys.exit(main())
