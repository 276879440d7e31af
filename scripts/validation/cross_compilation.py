"""Compilation of the kernels that the networks and the rasteriser launch, for a card that need not be there."""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from pipeline.fused import attention, products
from pipeline.fused.flows import FusedFlows
from pipeline.fused.gaussian_decoder import FusedGaussianDecoder
from pipeline.fused.structure_decoder import FusedStructureDecoder
from pipeline.params import Conditions
from pipeline.rendering.cameras import orbit
from pipeline.rendering.triton_rasterizer import composite_views
from pipeline.splats.splats import Splats
from pipeline.trellis import SLatFlowModel, SparseStructureFlowModel, VoxelGrid
from pipeline.trellis.checkpoint import build_network
from pipeline.trellis.gaussian_decoder import SLatGaussianDecoder
from pipeline.trellis.structure_decoder import SparseStructureDecoder
from pipeline.weights.random_init import CHECKPOINTS
from scripts.validation.specialisation import Specialisation

# pipeline.compute refuses 8-bit products on older cards.
FP8_CAPABILITY = (9, 0)
# Blocks differ from the second on; a small structure has the same kernels as one of 16 x 16 x 16 patches.
FEWER = {"num_blocks": 2}
RESOLUTION = 4
TOKENS = 16
# An H100's; any number compiles to the same registers and memory.
MULTIPROCESSORS = 132
GRID = torch.tensor([[20, 20, 20], [21, 20, 20], [40, 41, 42]])


class CompilingDriver:
    """A driver of Triton's for a card that need not be there: kernels can be compiled for it but not launched."""

    def __init__(self, capability: str) -> None:
        """Stand for one card of a compute capability such as "8.6"."""
        self._capability = int(capability.replace(".", ""))

    def get_current_target(self) -> GPUTarget:
        """Return what to compile for."""
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        """Return a number that no other card has, since Triton keeps compiled kernels by it."""
        return self._capability

    def get_current_stream(self, device: int) -> int:
        """Return the default stream."""
        return 0


@contextmanager
def compiled_kernels(capability: str) -> Iterator[list[Specialisation]]:
    """Compile the kernels that are launched in the context instead; they are in the list, each once, as it ends.

    Results are undefined but for integers, which are 1, so that sizes that follow from them are small.
    """
    found: list[Specialisation] = []
    compiled: dict[str, tuple[Any, JITFunction[Any]]] = {}
    run = JITFunction.run

    def compile_only(self: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        compiled[kernel.hash] = kernel, self
        for argument in args:
            if isinstance(argument, Tensor) and argument.dtype == torch.int32:
                argument.fill_(1)

    driver.set_active(cast(Any, CompilingDriver(capability)))
    with (
        patch.object(JITFunction, "run", compile_only),
        patch.object(attention, "capability", lambda _device: _numbers(capability)),
        patch.object(products, "capability", lambda _device: _numbers(capability)),
        patch.object(products, "multiprocessors", lambda _device: MULTIPROCESSORS),
    ):
        yield found
    found += [_specialisation(kernel, function, capability) for kernel, function in compiled.values()]


def _numbers(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return int(major), int(minor)


def _specialisation(kernel: Any, function: JITFunction[Any], capability: str) -> Specialisation:
    source = kernel.src
    types = [kind for kind in source.signature.values() if kind != "constexpr"]
    constants = {function.arg_names[path[0]]: value for path, value in source.constants.items()}
    registers, stack = _resources(kernel.asm["cubin"])
    return Specialisation(
        function.__name__, " ".join(types), ", ".join(f"{name}={value}" for name, value in constants.items()),
        capability, kernel.metadata.num_warps, kernel.metadata.shared, registers, stack,
    )  # fmt: skip


def _resources(cubin: bytes) -> tuple[int, int]:
    """Return registers and bytes of stack for each thread, as cuobjdump of Triton's package reads them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+)", output)
    assert usage is not None, output
    return int(usage[1]), int(usage[2])


def call_flows(checkpoint: str, dtype: torch.dtype, *, fp8: bool) -> None:
    """Call the fused flows of a published checkpoint's width for one and for two contexts, of tokens and of zeros."""
    networks = CHECKPOINTS[checkpoint]
    name, args = networks["sparse_structure_flow_model"]
    structure = _empty_network(name, {**args, **FEWER, "resolution": RESOLUTION}, dtype)
    name, args = networks["slat_flow_model"]
    latents = _empty_network(name, {**args, **FEWER}, dtype)
    flows = FusedFlows(cast(SparseStructureFlowModel, structure), cast(SLatFlowModel, latents), fp8=fp8)
    tokens = torch.zeros(1, TOKENS, args["cond_channels"])
    grid = VoxelGrid.of([GRID])
    for negative in (None, tokens):
        conditions = Conditions((tokens,), negative)
        x = torch.zeros(1, 8, RESOLUTION, RESOLUTION, RESOLUTION)
        velocities = flows.prepare_structure([1.0], conditions)
        latent_velocities = flows.prepare_latents([1.0], conditions, grid)
        for indices in ([0], [0, 1]):
            velocities(x, 0, indices)
            latent_velocities(torch.zeros(len(grid), 8), 0, indices)


def call_decoders(checkpoint: str, dtype: torch.dtype) -> None:
    """Call the fused decoders of a published checkpoint's width."""
    networks = CHECKPOINTS[checkpoint]
    name, args = networks["sparse_structure_decoder"]
    structure = FusedStructureDecoder(cast(SparseStructureDecoder, _empty_network(name, args, dtype)))
    structure(torch.zeros(1, args["latent_channels"], 1, 1, 1))
    name, args = networks["slat_decoder_gs"]
    gaussians = FusedGaussianDecoder(cast(SLatGaussianDecoder, _empty_network(name, {**args, **FEWER}, dtype)))
    gaussians(torch.zeros(len(GRID), args["latent_channels"]), VoxelGrid.of([GRID]))


def _empty_network(name: str, args: dict[str, Any], dtype: torch.dtype) -> torch.nn.Module:
    network = build_network(name, args).to_empty(device="cpu")
    network.to_precision(dtype)
    return network.eval()


def call_rasterizer() -> None:
    """Draw what a score, the page and `splats render` draw: one view and sixteen, of sizes that 16 divides or not."""
    n = 20
    splats = Splats(torch.zeros(n, 3), torch.zeros(n, 4), torch.zeros(n, 3), torch.zeros(n), torch.zeros(n, 3))
    for size in (518, 512):
        for views in (1, 16):
            composite_views(splats, orbit([0.0] * views, size=size))


def check_card(capability: str, checkpoints: Sequence[str], dtypes: Sequence[torch.dtype]) -> list[Specialisation]:
    """Return what is compiled for a card: the rasteriser, and the networks of checkpoints in precisions."""
    eight_bits = (False, True) if _numbers(capability) >= FP8_CAPABILITY else (False,)
    with torch.inference_mode(), compiled_kernels(capability) as kernels:
        call_rasterizer()
        for checkpoint in checkpoints:
            for dtype in dtypes:
                call_decoders(checkpoint, dtype)
                for fp8 in eight_bits:
                    call_flows(checkpoint, dtype, fp8=fp8)
    return kernels
