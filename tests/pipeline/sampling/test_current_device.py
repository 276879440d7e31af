"""Whatever runs on a GPU runs while that is the thread's current one, which need not be the first."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from pipeline import CheckpointSource, Generator, ImagePrompt, Request, SamplerParams, TextPrompt, choose_compute
from pipeline.sampling import engine as engine_module

PARAMS = SamplerParams(steps=2, cfg_strength=1.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)


def request_of_an_egg() -> Request:
    picture = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(picture).ellipse((54, 10, 74, 118), fill=(200, 40, 40, 255))
    return Request(ImagePrompt(picture, picture.tobytes()), 0, PARAMS, PARAMS)


def test_every_network_runs_while_its_device_is_the_current_one(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    current: list[torch.device] = []

    @contextmanager
    def current_device(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(engine_module, "current_device", current_device)
    assert generator.image is not None
    engine = generator.image.engine
    checkpoint = engine.checkpoint
    ran: set[str] = set()

    def note(name: str) -> Callable[[nn.Module, object], None]:
        def hook(_module: nn.Module, _inputs: object) -> None:
            assert current == [engine.device], f"{name} runs on whatever device is current"
            ran.add(name)

        return hook

    names = ("structure_flow", "structure_decoder", "latent_flow", "gaussian_decoder")
    handles = [getattr(checkpoint, name).register_forward_pre_hook(note(name)) for name in names]
    try:
        generator.generate(request_of_an_egg())
    finally:
        for handle in handles:
            handle.remove()
    assert ran == set(names)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_gpu_makes_what_the_first_makes() -> None:
    """With fused kernels, from a thread whose current device is the first one."""
    results = []
    for name in ("cuda:0", "cuda:1"):
        compute = choose_compute(name, kernels="fused")
        generator = Generator.load(compute, text=CheckpointSource("embedded-text"), background_models=["u2netp"])
        generator.warm_up()
        requests = [Request(TextPrompt("a yellow duck"), seed, PARAMS, PARAMS) for seed in (0, 1)]
        results.append([generator.generate(request).splats for request in requests])
        assert results[-1][0].means.device == torch.device(name)
    for first, second in zip(*results, strict=True):
        assert len(first) == len(second)
        torch.testing.assert_close(first.means, second.means.to(first.means.device), atol=1e-3, rtol=0)
