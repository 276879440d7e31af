"""Grounds without an object: a typed reason, or something in front of the rest, but never the whole picture."""

import numpy as np
import pytest
from PIL import Image

from pipeline.conditioning.mattings import MattingModels
from pipeline.conditioning.preprocessing import prepare_picture
from pipeline.conditioning.prompt import ImagePrompt
from pipeline.errors import NoCutOut
from scripts.validation.composites import KINDS, grounds_of

GROUNDS = [
    (kind, tested, name) for kind in KINDS for tested in (False, True) for name in grounds_of(kind, tested=tested)
]


@pytest.fixture(scope="module")
def models() -> MattingModels:
    return MattingModels(["u2netp"])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "tested", "name"), GROUNDS)
def test_a_ground_alone_becomes_no_slab(models: MattingModels, kind, tested: bool, name: str) -> None:
    pixels = grounds_of(kind, tested=tested)[name](np.random.default_rng(0))
    picture = Image.fromarray((pixels * 255).astype(np.uint8))
    try:
        cut = prepare_picture(ImagePrompt(picture, b""), models).cut_out
    except NoCutOut as error:
        assert error.mattings
    else:
        alpha = np.asarray(cut.image.getchannel("A")) > 127
        border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        assert 0 < alpha.mean() < 0.95
        assert border.mean() < 0.9
