"""Latents on the structure of an earlier object of the same prompt."""

from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw

from pipeline import Generator, ImagePrompt, Request, SamplerParams, TextPrompt
from pipeline.backends.text_to_image import TextToImageBackend

PARAMS = SamplerParams(steps=3, cfg_strength=1.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)


@pytest.fixture(scope="module")
def request_() -> Request:
    picture = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(picture).ellipse((54, 10, 74, 118), fill=(200, 40, 40, 255))
    return Request(ImagePrompt(picture, picture.tobytes()), 7, PARAMS, PARAMS)


def test_a_structure_from_a_few_steps_of_latents_is_finished_as_if_it_had_been_made_at_once(
    generator: Generator, request_: Request
) -> None:
    assert generator.samples_on_structures(request_.prompt)
    conditioning = generator.encode(request_.prompt)
    whole = generator.sample(conditioning, request_)
    glance = generator.sample(conditioning, replace(request_, slat_sampler_params=replace(PARAMS, steps=1)))
    assert glance.structure is not None
    assert (glance.structure.dtype, glance.structure.shape) == (torch.uint8, (glance.voxels, 3))
    assert not torch.equal(glance.splats.means, whole.splats.means)
    stages: list[str] = []
    finished = generator.sample(
        conditioning, replace(request_, structure=glance.structure), lambda stage, *_: stages.append(stage)
    )
    assert set(stages) == {"latents"}
    for name, tensor in whole.splats.tensors().items():
        assert torch.equal(tensor, finished.splats.tensors()[name]), name
    assert torch.equal(finished.structure, whole.structure)


def test_another_seed_gives_other_latents_on_the_same_structure(generator: Generator, request_: Request) -> None:
    conditioning = generator.encode(request_.prompt)
    first = generator.sample(conditioning, request_)
    second = generator.sample(conditioning, replace(request_, seed=8, structure=first.structure))
    assert torch.equal(first.structure, second.structure)
    assert not torch.equal(first.splats.f_dc, second.splats.f_dc)


def test_a_sentence_that_is_drawn_is_not_drawn_twice_for_one_structure(generator: Generator, request_: Request) -> None:
    drawing = TextToImageBackend(generator, None, torch.device("cpu"))  # type: ignore[arg-type]
    assert drawing.samples_on_structures(request_.prompt)
    assert not drawing.samples_on_structures(TextPrompt("a chair"))
