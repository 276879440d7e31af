from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from pipeline import (
    STAGES,
    Asset,
    BackgroundModelError,
    Cancelled,
    CheckpointError,
    CheckpointSource,
    EmptyForeground,
    EmptyStructure,
    Generator,
    ImagePrompt,
    NonFiniteOutput,
    Request,
    SamplerParams,
    Splats,
    choose_compute,
    spz,
)
from pipeline.conditioning.preprocessing import frame_object
from pipeline.sampling.engine import Engine
from pipeline.splats.validation import invalid_reason
from pipeline.trellis import VoxelGrid

# config/phases/demo.yaml.
DEMO = SamplerParams(steps=12, cfg_strength=0.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)
# Quick, and guided in all steps but the last.
FEW, FEWER = (replace(DEMO, steps=steps, cfg_strength=1.0) for steps in (4, 2))
FIELDS = ("means", "quaternions", "log_scales", "opacity_logits", "f_dc")


def drawing(kind: str) -> Image.Image:
    """A picture with alpha, so that background removal is not needed."""
    image = Image.new("RGBA", (160, 128))
    draw = ImageDraw.Draw(image)
    if kind == "egg":
        draw.ellipse((66, 10, 86, 118), fill=(200, 40, 40, 255))
    elif kind == "cross":
        draw.rectangle((70, 10, 90, 120), fill=(20, 200, 90, 255))
        draw.rectangle((20, 55, 140, 75), fill=(240, 240, 20, 255))
    else:
        pixels = np.random.default_rng(1).integers(0, 256, (128, 160, 4), dtype=np.uint8)
        pixels[:, :, 3] = 255
        pixels[:7, :, 3] = 0
        image = Image.fromarray(pixels)
    return image


def engine(generator: Generator) -> Engine:
    assert generator.image is not None
    return generator.image.engine


def request(
    kind: str = "egg", seed: int = 0, structure: SamplerParams = FEW, latents: SamplerParams = FEWER
) -> Request:
    return Request(ImagePrompt(drawing(kind), kind.encode()), seed, structure, latents)


def same(a: Splats, b: Splats) -> bool:
    return len(a) == len(b) and all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


@pytest.fixture(scope="module")
def asset(generator: Generator) -> Asset:
    return generator.generate(request())


def test_the_same_seed_gives_the_same_splats(generator: Generator, asset: Asset) -> None:
    torch.manual_seed(99)
    assert same(generator.generate(request()).splats, asset.splats)


def test_another_seed_or_picture_gives_other_splats(generator: Generator, asset: Asset) -> None:
    assert not same(generator.generate(request(seed=1)).splats, asset.splats)
    assert not same(generator.generate(request("cross")).splats, asset.splats)


def test_stages_are_timed_and_the_request_is_answered(asset: Asset) -> None:
    assert tuple(asset.seconds) == STAGES
    assert all(seconds > 0 for seconds in asset.seconds.values())
    assert asset.total_seconds == pytest.approx(sum(asset.seconds.values()))
    assert asset.seed == 0


def test_a_prompt_is_encoded_once_for_any_number_of_samples(generator: Generator, asset: Asset) -> None:
    conditioning = generator.encode(request().prompt)
    assert conditioning.seconds["background"] > 0
    assert conditioning.seconds["conditioning"] > 0
    assert not any(conditioning.seconds[stage] for stage in ("structure", "latents", "gaussians"))
    for seed in (1, 0):
        sampled = generator.sample(conditioning, request(seed=seed))
        assert sampled.seed == seed
        assert sampled.seconds["background"] == sampled.seconds["conditioning"] == 0
        assert all(sampled.seconds[stage] > 0 for stage in ("structure", "latents", "gaussians"))
    assert same(sampled.splats, asset.splats)
    added = sampled.with_added_seconds(conditioning.seconds)
    assert tuple(added.seconds) == STAGES
    assert added.total_seconds == pytest.approx(sampled.total_seconds + sum(conditioning.seconds.values()))


def check(asset: Asset) -> None:
    assert 1000 <= asset.voxels <= 10_000
    assert len(asset.splats) == 32 * asset.voxels
    assert invalid_reason(asset.splats) is None
    assert invalid_reason(spz.from_bytes(spz.to_bytes(asset.splats))) is None
    assert bool((asset.splats.means.abs() <= 0.5 + 0.75 / 64).all())
    assert torch.allclose(asset.splats.quaternions.norm(dim=1), torch.ones(len(asset.splats)), atol=1e-5)
    assert asset.splats.sh_degree == 0


@pytest.mark.parametrize("kind", ["egg", "cross", "noise"])
@pytest.mark.parametrize("seed", [7, 2**32 - 1])
def test_the_embedded_checkpoint_makes_valid_splats(generator: Generator, kind: str, seed: int) -> None:
    check(generator.generate(request(kind, seed, DEMO)))


@pytest.mark.slow
def test_it_does_at_the_demo_s_settings(generator: Generator) -> None:
    check(generator.generate(request("noise", 42, DEMO, DEMO)))


def test_it_does_with_the_settings_the_checkpoint_recommends(generator: Generator) -> None:
    checkpoint = engine(generator).checkpoint
    structure = replace(checkpoint.sparse_structure_sampler_params, steps=12)
    check(generator.generate(request("cross", 3, structure, replace(checkpoint.slat_sampler_params, steps=3))))


@pytest.mark.slow
def test_an_opaque_picture_goes_through_background_removal(generator: Generator) -> None:
    picture = Image.new("RGB", (240, 200), (220, 220, 215))
    ImageDraw.Draw(picture).ellipse((70, 50, 170, 150), fill=(190, 40, 30))
    asset = generator.generate(Request(ImagePrompt(picture, b"opaque"), 5, DEMO, FEWER))
    check(asset)
    (prepared,) = asset.pictures
    (matting,) = prepared.cut_out.mattings
    assert (prepared.cut_out.model, matting.model, matting.flaw) == ("u2netp", "u2netp", "")
    # The ellipse of 100 x 100 pixels in 240 x 200.
    assert matting.measures.area == pytest.approx(0.164, abs=0.02)
    assert prepared.picture.size == (518, 518)
    assert generator.image.remove_background.removers["u2netp"].provider == "CPUExecutionProvider"


@torch.no_grad()
def test_noise_is_upstream_s_from_the_global_generator(generator: Generator, asset: Asset) -> None:
    """Upstream seeds torch and draws a dense grid, then a row per voxel in the order of the coordinates."""
    checkpoint = engine(generator).checkpoint
    cond = generator.image.encoder(frame_object(drawing("egg")))
    torch.manual_seed(0)
    flow = checkpoint.structure_flow
    x = torch.randn(1, flow.in_channels, flow.resolution, flow.resolution, flow.resolution)

    def integrate(x: torch.Tensor, times: list[float], velocity) -> torch.Tensor:
        for t, t_next in pairwise(times):
            time = torch.tensor([1000 * t])
            v = velocity(x, time, cond)
            if t >= 0.5:
                v = 2 * v - velocity(x, time, torch.zeros_like(cond))
            x = x - (t - t_next) * v
        return x

    # By hand: the times of four and of two steps at rescale 3.
    logits = checkpoint.structure_decoder(integrate(x, [1.0, 0.9, 0.75, 0.5, 0.0], flow))
    coords = torch.nonzero(logits[:, 0] > 0)
    assert len(coords) == asset.voxels

    grid = VoxelGrid(coords)
    noise = torch.randn(len(coords), checkpoint.latent_flow.in_channels)
    latents = integrate(noise, [1.0, 0.75, 0.0], lambda x, t, c: checkpoint.latent_flow(x, grid, t, c))
    raw = checkpoint.gaussian_decoder(latents * checkpoint.latent_std + checkpoint.latent_mean, grid)
    f_dc = raw[:, 96:192].reshape(-1, 3)
    assert torch.allclose(asset.splats.f_dc, f_dc, atol=1e-3 * float(f_dc.abs().max()))


def test_latents_are_denormalised_before_they_are_decoded(generator: Generator) -> None:
    checkpoint = engine(generator).checkpoint
    mean, std = torch.linspace(-2, 2, 8), torch.linspace(1, 3, 8)
    compute = choose_compute("cpu")
    engine_ = Engine(replace(checkpoint, latent_mean=mean, latent_std=std), compute)
    other = Generator(compute, replace(generator.image, engine=engine_), None)
    decoded = []
    hook = checkpoint.gaussian_decoder.register_forward_pre_hook(lambda _module, args: decoded.append(args[0]))
    generator.generate(request())
    other.generate(request())
    hook.remove()
    sample = (decoded[0] - checkpoint.latent_mean) / checkpoint.latent_std
    assert torch.allclose(decoded[1], sample * std + mean, atol=1e-4)


@pytest.mark.parametrize("calls", [1, 4, 5, 6])
def test_it_can_be_stopped_after_any_step(generator: Generator, calls: int) -> None:
    seen = []

    def stop_later(stage: str, done: int, steps: int) -> None:
        seen.append(stage)
        if len(seen) == calls:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        generator.generate(request(), stop_later)
    assert len(seen) == calls


def stop(stage: str, done: int, steps: int) -> None:
    raise Cancelled("enough")


def test_a_stop_leaves_nothing_behind(generator: Generator, asset: Asset) -> None:
    with pytest.raises(Cancelled):
        generator.generate(request("cross", 3), stop)
    assert same(generator.generate(request()).splats, asset.splats)


def test_progress_is_reported_after_each_step(generator: Generator) -> None:
    seen = []
    generator.generate(request(), lambda *progress: seen.append(progress))
    assert seen == [("structure", done, 4) for done in (1, 2, 3, 4)] + [("latents", done, 2) for done in (1, 2)]


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGBA", (64, 64)),
        Image.new("RGBA", (64, 64), (255, 255, 255, 10)),
        # Not transparent, and nothing in it for the background model to find.
        Image.new("RGB", (64, 64), "white"),
    ],
)
def test_a_picture_without_an_object_is_refused(generator: Generator, picture: Image.Image) -> None:
    with pytest.raises(EmptyForeground, match="the image shows no object"):
        generator.generate(Request(ImagePrompt(picture, b"empty"), 0, FEW, FEWER))


@pytest.fixture
def spoil() -> Iterator[Callable[[nn.Module, float | torch.Tensor], None]]:
    """Give a layer another bias until the test is over."""
    with ExitStack() as undo:

        def change(layer: nn.Module, value: float | torch.Tensor) -> None:
            undo.callback(layer.bias.copy_, layer.bias.clone())
            layer.bias.copy_(torch.as_tensor(value))

        yield change


def test_an_empty_structure_is_named(generator: Generator, spoil) -> None:
    spoil(engine(generator).checkpoint.structure_decoder.out_layer[2], -1e6)
    with pytest.raises(EmptyStructure, match="left every voxel empty; try another seed"):
        generator.generate(request())


@pytest.mark.parametrize(
    ("network", "value"),
    [
        ("structure_flow", float("nan")),
        ("structure_decoder", float("nan")),
        ("structure_decoder", float("inf")),
        ("latent_flow", float("inf")),
        ("gaussian_decoder", float("-inf")),
    ],
)
def test_an_output_that_is_not_finite_is_an_error(generator: Generator, network: str, value: float, spoil) -> None:
    layer = getattr(engine(generator).checkpoint, network).out_layer
    spoil(layer[2] if isinstance(layer, nn.Sequential) else layer, value)
    with pytest.raises(NonFiniteOutput, match="returned NaN or infinity; try precision: float32"):
        generator.generate(request())


@pytest.mark.parametrize("channel", [96, 416])
def test_no_attribute_may_be_nan(generator: Generator, channel: int, spoil) -> None:
    layer = engine(generator).checkpoint.gaussian_decoder.out_layer
    bias = layer.bias.clone()
    bias[channel] = float("nan")
    spoil(layer, bias)
    with pytest.raises(NonFiniteOutput, match="the gaussian decoder returned NaN"):
        generator.generate(request())


def test_an_opacity_that_rounds_to_one_is_no_error(generator: Generator, spoil) -> None:
    layer = engine(generator).checkpoint.gaussian_decoder.out_layer
    bias = layer.bias.clone()
    bias[416:] = 100.0
    spoil(layer, bias)
    assert bool(generator.generate(request()).splats.opacity_logits.isinf().all())


def test_warming_up_generates_once(generator: Generator) -> None:
    generator.warm_up()


def test_warming_up_survives_a_checkpoint_that_leaves_no_voxel(generator: Generator, spoil) -> None:
    spoil(engine(generator).checkpoint.structure_decoder.out_layer[2], -1e6)
    generator.warm_up()


def test_warming_up_needs_no_more_memory_than_a_task(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Request] = []
    monkeypatch.setattr(generator, "generate", requests.append)
    generator.warm_up()
    (request,) = requests
    assert request.voxel_limit is not None
    assert request.voxel_limit.excess == "drop"
    assert request.voxel_limit.count <= 16_000


def test_bfloat16_makes_valid_splats_too(asset: Asset) -> None:
    compute = choose_compute("cpu", "bfloat16")
    other = Generator.load(compute, image=CheckpointSource("embedded"), background_models=["u2netp"]).generate(
        request()
    )
    assert not same(other.splats, asset.splats)
    assert other.splats.means.dtype == torch.float32
    assert invalid_reason(other.splats) is None


@pytest.mark.parametrize(
    ("checkpoint", "model", "error", "message"),
    [
        ("/nowhere", "u2netp", CheckpointError, "directory /nowhere does not exist"),
        ("embedded", "bria-rmbg", BackgroundModelError, "unknown background model 'bria-rmbg'"),
    ],
)
def test_what_cannot_be_loaded_is_named(checkpoint: str, model: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Generator.load(choose_compute("cpu"), image=CheckpointSource(checkpoint), background_models=[model])
