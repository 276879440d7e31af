import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import ply
from pipeline.backends.upstream import BackendError, UpstreamGenerator
from pipeline.compute import choose_compute
from pipeline.conditioning.preprocessing import frame_object
from pipeline.conditioning.prompt import ImagePrompt, ImagesPrompt, TextPrompt
from pipeline.errors import (
    Cancelled,
    CheckpointError,
    EmptyForeground,
    EmptyStructure,
    NonFiniteOutput,
    OutOfMemory,
    TooManyVoxels,
    UnsupportedPrompt,
)
from pipeline.generator import CheckpointSource
from pipeline.params import SamplerParams, VoxelLimit
from pipeline.request import STAGES, Request
from tests.support.paths import DATA

GOLDEN = DATA / "trellis"
# The outside of upstream's pipelines: what the adapter calls and what these call on themselves.
FAKE = """
import numpy as np
import torch


class Gaussian:
    def __init__(self, arrays):
        self.get_xyz = torch.from_numpy(arrays["get_xyz"])
        self.get_scaling = torch.from_numpy(arrays["get_scaling"])
        self.get_rotation = torch.from_numpy(arrays["get_rotation"])
        self.get_opacity = torch.from_numpy(arrays["get_opacity"])
        self._features_dc = torch.from_numpy(arrays["features_dc_raw"][:256])


class Sampler:
    def sample(self, noise, steps, cfg_strength, cfg_interval, rescale_t):
        for step in range(steps):
            noise = self.sample_once(noise, step)
        return noise

    def sample_once(self, x, step):
        return self._inference_model(x)

    def _inference_model(self, x):
        return x


class Pipeline:
    def __init__(self, path):
        self.path, self.device, self.calls, self.noises = path, None, [], []
        self.voxels, self.failure = 8, None
        self.sparse_structure_sampler, self.slat_sampler = Sampler(), Sampler()
        self.arrays = dict(np.load(GOLDEN))

    @classmethod
    def from_pretrained(cls, path):
        if "broken" in path:
            raise KeyError("slat_decoder_mesh")
        return cls(path)

    def to(self, device):
        self.device = device

    def sample_sparse_structure(self, cond, num_samples=1, sampler_params={}):
        noise = torch.randn(num_samples, 4)
        self.noises.append(noise)
        self.sparse_structure_sampler.sample(noise, **sampler_params)
        return torch.zeros(self.voxels, 4, dtype=torch.int32)

    def run(self, prompt, num_samples=1, seed=42, sparse_structure_sampler_params={}, slat_sampler_params={},
            formats=["mesh", "gaussian", "radiance_field"], **options):
        self.calls.append(dict(prompt=prompt, seed=seed, formats=formats, **options))
        torch.manual_seed(seed)
        coords = self.sample_sparse_structure({}, num_samples, sparse_structure_sampler_params)
        if self.failure:
            raise self.failure
        self.slat_sampler.sample(torch.randn(len(coords), 8), **slat_sampler_params)
        return {name: [Gaussian(self.arrays)] for name in formats}


class TrellisTextTo3DPipeline(Pipeline):
    pass


class TrellisImageTo3DPipeline(Pipeline):
    def run_multi_image(self, images, **options):
        for sampler in (self.sparse_structure_sampler, self.slat_sampler):
            sampler._old_inference_model = sampler._inference_model
            sampler._inference_model = lambda x, old=sampler._old_inference_model: old(x)
        result = self.run(images, **options)
        for sampler in (self.sparse_structure_sampler, self.slat_sampler):
            sampler._inference_model = sampler._old_inference_model
            del sampler._old_inference_model
        return result
"""
STRUCTURE = SamplerParams(steps=3, cfg_strength=7.5, cfg_interval=(0.5, 0.95), rescale_t=3.0)
LATENTS = SamplerParams(steps=2, cfg_strength=3.0)
TEXT = Request(TextPrompt("a red chair"), 7, STRUCTURE, LATENTS)


def picture(colour: str) -> ImagePrompt:
    image = Image.new("RGBA", (64, 64))
    image.paste(colour, (16, 16, 48, 48))
    return ImagePrompt(image, image.tobytes())


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A `trellis` package on the path, the tests' own."""
    folder = tmp_path / "site" / "trellis"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    golden = GOLDEN / "slat_dec_gs_forward.npz"
    (folder / "pipelines.py").write_text(f"GOLDEN = {str(golden)!r}\n{FAKE}")
    monkeypatch.syspath_prepend(folder.parent)
    yield folder
    for name in ("trellis.pipelines", "trellis"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "pipeline.json").write_text("{}")
    return tmp_path / "checkpoint"


@pytest.fixture
def upstream(package: Path, checkpoint: Path) -> UpstreamGenerator:
    source = CheckpointSource(str(checkpoint))
    return UpstreamGenerator.load(choose_compute("cpu"), image=source, text=source, background_models=["u2netp"])


def test_pipelines_are_loaded_from_the_checkpoint_s_directory_onto_the_device(
    upstream: UpstreamGenerator, checkpoint: Path
) -> None:
    for pipeline, name in ((upstream.image, "TrellisImageTo3DPipeline"), (upstream.text, "TrellisTextTo3DPipeline")):
        assert type(pipeline).__name__ == name
        assert pipeline.path == str(checkpoint)
        assert pipeline.device == torch.device("cpu")


def test_splats_are_those_of_upstream_s_ply(upstream: UpstreamGenerator) -> None:
    ours = upstream.generate(TEXT).splats
    theirs = ply.from_bytes((GOLDEN / "sample.ply").read_bytes())
    assert len(ours) == 256
    assert torch.equal(ours.means, theirs.means[:256])
    assert torch.equal(ours.f_dc, theirs.f_dc[:256])
    assert torch.allclose(ours.log_scales, theirs.log_scales[:256], atol=1e-6)
    assert torch.allclose(ours.opacity_logits, theirs.opacity_logits[:256], atol=1e-5)
    assert torch.allclose(ours.quaternions, theirs.quaternions[:256], atol=2e-4)


def test_a_sentence_is_passed_on_with_seed_and_settings(upstream: UpstreamGenerator) -> None:
    asset = upstream.generate(TEXT)
    assert upstream.text.calls == [{"prompt": "a red chair", "seed": 7, "formats": ["gaussian"]}]
    torch.manual_seed(7)
    assert torch.equal(upstream.text.noises[0], torch.randn(1, 4))
    assert (asset.seed, asset.voxels, tuple(asset.seconds)) == (7, 8, STAGES)
    assert all(seconds >= 0 for seconds in asset.seconds.values())


def test_reused_velocities_are_refused(upstream: UpstreamGenerator) -> None:
    params = replace(TEXT.slat_sampler_params, reuse=1)
    with pytest.raises(BackendError, match="cannot reuse velocities: leave acceleration out"):
        upstream.generate(replace(TEXT, slat_sampler_params=params))


def test_a_picture_is_cut_out_and_framed_here(upstream: UpstreamGenerator) -> None:
    upstream.generate(replace(TEXT, prompt=picture("red")))
    (call,) = upstream.image.calls
    assert call["preprocess_image"] is False
    assert np.array_equal(np.asarray(call["prompt"]), np.asarray(frame_object(picture("red").image)))


def test_any_alpha_below_255_is_a_cut_out_as_upstream_has_it(upstream: UpstreamGenerator) -> None:
    image = Image.new("RGBA", (64, 64), "red")
    image.putpixel((0, 0), (255, 0, 0, 254))
    upstream.generate(replace(TEXT, prompt=ImagePrompt(image, b"")))
    assert np.array_equal(np.asarray(upstream.image.calls[0]["prompt"]), np.asarray(frame_object(image)))


def test_several_pictures_are_combined_as_the_prompt_says(upstream: UpstreamGenerator) -> None:
    prompt = ImagesPrompt((picture("red"), picture("blue")), "multidiffusion")
    upstream.generate(replace(TEXT, prompt=prompt))
    (call,) = upstream.image.calls
    assert (call["mode"], call["preprocess_image"], len(call["prompt"])) == ("multidiffusion", False, 2)


def test_each_step_is_reported(upstream: UpstreamGenerator) -> None:
    steps: list[tuple[str, int, int]] = []
    upstream.generate(TEXT, lambda *step: steps.append(step))
    structure = [("structure", done, 3) for done in (1, 2, 3)]
    assert steps == [*structure, ("latents", 1, 2), ("latents", 2, 2)]


def test_work_stops_when_it_is_given_up_and_leaves_nothing_behind(upstream: UpstreamGenerator) -> None:
    def stop(stage: str, done: int, _steps: int) -> None:
        if (stage, done) == ("structure", 2):
            raise Cancelled("enough")

    prompt = ImagesPrompt((picture("red"), picture("blue")))
    before = {name: dict(vars(getattr(upstream.image, name))) for name in ("sparse_structure_sampler", "slat_sampler")}
    with pytest.raises(Cancelled, match="enough"):
        upstream.generate(replace(TEXT, prompt=prompt), stop)
    for name, attributes in before.items():
        assert vars(getattr(upstream.image, name)) == attributes == {}
    assert "sample_sparse_structure" not in vars(upstream.image)
    assert upstream.generate(replace(TEXT, prompt=prompt)).voxels == 8


def test_an_encoded_prompt_may_be_sampled_several_times(upstream: UpstreamGenerator) -> None:
    conditioning = upstream.encode(picture("red"))
    assert conditioning.seconds["background"] > 0
    first, second = (upstream.sample(conditioning, replace(TEXT, seed=seed)) for seed in (3, 4))
    assert [call["seed"] for call in upstream.image.calls] == [3, 4]
    assert (first.seed, second.seed) == (3, 4)
    assert (first.seconds["background"], tuple(second.seconds)) == (0, STAGES)


def test_warming_up_generates_once_of_each_kind(upstream: UpstreamGenerator) -> None:
    assert (upstream.supports_image, upstream.supports_text) == (True, True)
    upstream.warm_up()
    assert (len(upstream.image.calls), [call["prompt"] for call in upstream.text.calls]) == (1, ["a red ball"])
    upstream.text.voxels = 0
    upstream.warm_up()


@pytest.mark.parametrize(
    ("limit", "voxels", "error", "message"),
    [
        (None, 0, EmptyStructure, "every voxel empty"),
        (VoxelLimit(7), 8, TooManyVoxels, "8 voxels, more than 7$"),
        (VoxelLimit(7, "drop"), 8, TooManyVoxels, "more than 7, and upstream cannot drop any"),
    ],
)
def test_limits_hold(
    upstream: UpstreamGenerator, limit: VoxelLimit | None, voxels: int, error: type[Exception], message: str
) -> None:
    upstream.text.voxels = voxels
    with pytest.raises(error, match=message):
        upstream.generate(replace(TEXT, voxel_limit=limit))


def test_as_many_voxels_as_the_limit_are_no_excess(upstream: UpstreamGenerator) -> None:
    assert upstream.generate(replace(TEXT, voxel_limit=VoxelLimit(8))).voxels == 8


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory, "did not suffice for upstream: CUDA out"),
        (IndexError("spconv"), BackendError, "the trellis package failed: IndexError: spconv"),
    ],
)
def test_what_goes_wrong_inside_is_one_of_our_errors(
    upstream: UpstreamGenerator, failure: Exception, error: type[Exception], message: str
) -> None:
    upstream.text.failure = failure
    with pytest.raises(error, match=message):
        upstream.generate(TEXT)


def test_output_that_is_not_finite_is_refused(upstream: UpstreamGenerator) -> None:
    upstream.text.arrays["get_xyz"][0, 0] = np.nan
    with pytest.raises(NonFiniteOutput):
        upstream.generate(TEXT)


def test_an_empty_picture_is_refused(upstream: UpstreamGenerator) -> None:
    with pytest.raises(EmptyForeground):
        upstream.generate(replace(TEXT, prompt=ImagePrompt(Image.new("RGBA", (64, 64)), b"empty")))


def test_prompts_without_a_checkpoint_are_refused(package: Path, checkpoint: Path) -> None:
    source = CheckpointSource(str(checkpoint))
    only_text = UpstreamGenerator.load(choose_compute("cpu"), text=source, background_models=["u2netp"])
    with pytest.raises(UnsupportedPrompt, match="no image checkpoint"):
        only_text.generate(replace(TEXT, prompt=picture("red")))
    only_image = UpstreamGenerator.load(choose_compute("cpu"), image=source, background_models=["u2netp"])
    with pytest.raises(UnsupportedPrompt, match="no text checkpoint"):
        only_image.generate(TEXT)


def load(checkpoint: Path) -> Any:
    source = CheckpointSource(str(checkpoint))
    return UpstreamGenerator.load(choose_compute("cpu"), text=source, background_models=["u2netp"])


def test_a_missing_package_names_where_to_get_it(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trellis", None)
    with pytest.raises(BackendError, match=r"needs the trellis package .*clone https://github\.com/microsoft/TRELLIS"):
        load(checkpoint)


def test_another_package_of_that_name_is_refused(package: Path, checkpoint: Path) -> None:
    (package / "pipelines.py").write_text("")
    with pytest.raises(BackendError, match="has no TrellisTextTo3DPipeline: clone"):
        load(checkpoint)


def test_a_checkpoint_that_upstream_cannot_load_is_named(package: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pipeline.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"cannot load .*broken \(KeyError: 'slat_decoder_mesh'\).*`hf download"):
        load(tmp_path / "broken")
    with pytest.raises(CheckpointError, match="does not exist"):
        load(tmp_path / "nowhere")
