"""8-bit products as the fused kernels compute them, on any device."""

import torch

from scripts.train_tiny.eval.samples import load_model
from scripts.validation.acceleration import eight_bit_products, round_rows


def test_rows_keep_three_bits_of_their_mantissas() -> None:
    x = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 50)[:, None]
    rounded = round_rows(x)
    # Half of the last of three bits, and of the smallest number, which is 2^-9 where the largest is 448.
    bound = x.abs() / 16 + x.abs().amax(1, keepdim=True) / 448 / 2**10
    assert bool(((rounded - x).abs() <= 1.01 * bound).all())
    assert torch.allclose(rounded.abs().amax(1), x.abs().amax(1))
    assert not torch.equal(rounded, x)


@torch.inference_mode()
def test_velocities_differ_a_little_and_only_meanwhile() -> None:
    flow = (model := load_model("embedded", "cpu")).engine.checkpoint.structure_flow
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 8, 16, 16, 16, generator=generator)
    context = torch.randn(1, 9, model.engine.checkpoint.cond_channels, generator=generator)
    exact = flow(x, torch.tensor([500.0]), context)
    with eight_bit_products(model):
        rounded = flow(x, torch.tensor([500.0]), context)
    deviation = float((rounded - exact).norm() / exact.norm())
    assert 1e-4 < deviation < 0.1
    assert torch.equal(flow(x, torch.tensor([500.0]), context), exact)
