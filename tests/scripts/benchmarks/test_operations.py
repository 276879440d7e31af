"""The counted operations against torch's own count of what the plain path does."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline import SamplerParams, choose_compute
from pipeline.trellis import VoxelGrid
from pipeline.trellis.checkpoint import Checkpoint, load_checkpoint
from pipeline.weights.locate import locate
from scripts.benchmarks import operations

ONE_STEP = SamplerParams(steps=1, cfg_strength=0.0)
TOKENS = 20


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(locate("embedded", "pipeline.json"), choose_compute("cpu").device, torch.float32)


def counted(network: torch.nn.Module, *arguments: object) -> float:
    # On the CPU the counter sees attention only where it is done as products of matrices.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(*arguments)
    return float(counter.get_total_flops())


def test_structure_sampling(checkpoint: Checkpoint) -> None:
    flow = checkpoint.structure_flow
    cond = torch.zeros(1, TOKENS, checkpoint.cond_channels)
    total = counted(flow, torch.zeros(1, 8, 16, 16, 16), torch.ones(1), cond)
    ours = operations.structure_sampling(flow, ONE_STEP, TOKENS, zero_negative=True)
    # Beside the blocks there are the layers at both ends, the embedding of time and the modulations.
    assert 0.9 * total < ours <= total


def test_latent_sampling_and_decoding(checkpoint: Checkpoint) -> None:
    solid = torch.nonzero(torch.ones(10, 10, 10))
    grid = VoxelGrid.of([solid])
    flow = checkpoint.latent_flow
    cond = torch.zeros(1, TOKENS, checkpoint.cond_channels)
    total = counted(flow, torch.zeros(len(grid), 8), grid, torch.ones(1), cond)
    ours = operations.latent_sampling(flow, ONE_STEP, grid, TOKENS, zero_negative=True)
    # The plain path multiplies missing neighbours, too: here 1 - (28/30)^3 of all at the finer level.
    assert 0.6 * total < ours < total


def test_guidance_costs_a_second_pass(checkpoint: Checkpoint) -> None:
    guided = SamplerParams(steps=4, cfg_strength=3.0, cfg_interval=(0.5, 1.0))
    flow = checkpoint.structure_flow
    plain, zeros, tokens, reused = (
        operations.structure_sampling(flow, params, TOKENS, zero_negative=zero)
        for params, zero in (
            (SamplerParams(steps=4, cfg_strength=0.0), True),
            (guided, True),
            (guided, False),
            (SamplerParams(steps=4, cfg_strength=3.0, cfg_interval=(0.5, 1.0), reuse=1), True),
        )
    )
    assert plain < zeros < tokens
    # Steps at 1, 0.75 and 0.5 are guided; tokens cost as much on both sides.
    assert tokens / plain == pytest.approx(7 / 4, rel=0.05)
    assert reused < zeros
