from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw

from pipeline import Generator, ImagePrompt, Request, SamplerParams, TooManyVoxels, VoxelLimit
from pipeline.trellis.structure_decoder import likeliest_voxels, occupied_voxels

STRUCTURE = SamplerParams(steps=3, cfg_strength=1.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)


@pytest.fixture(scope="module")
def request_() -> Request:
    picture = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(picture).ellipse((54, 10, 74, 118), fill=(200, 40, 40, 255))
    return Request(ImagePrompt(picture, picture.tobytes()), 0, STRUCTURE, replace(STRUCTURE, steps=2))


def test_the_voxels_of_lowest_logit_go_first_and_the_order_stays() -> None:
    logits = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    coords = occupied_voxels(logits)
    kept = likeliest_voxels(coords, logits, 40)
    values = logits[0, 0][tuple(coords[:, 1:].long().T)]
    threshold = values.sort(descending=True).values[39]
    assert torch.equal(kept, coords[values >= threshold])
    assert torch.equal(likeliest_voxels(coords, logits, 10_000), coords)


def test_too_many_voxels_are_refused_or_dropped(generator: Generator, request_: Request) -> None:
    free = generator.generate(request_)
    with pytest.raises(TooManyVoxels, match=rf"{free.voxels} voxels, more than 300"):
        generator.generate(replace(request_, voxel_limit=VoxelLimit(300)))
    cut = generator.generate(replace(request_, voxel_limit=VoxelLimit(300, "drop")))
    assert (cut.voxels, len(cut.splats)) == (300, 300 * 32)


def test_a_limit_that_is_not_reached_changes_nothing(generator: Generator, request_: Request) -> None:
    free, limited = (generator.generate(replace(request_, voxel_limit=v)) for v in (None, VoxelLimit(262_144)))
    assert torch.equal(free.splats.means, limited.splats.means)
