import random
import warnings

import numpy as np
import pytest
from PIL import Image

from pipeline.conditioning.prompt import decode_image_prompt
from pipeline.errors import PromptError
from tests.support.picture_corpus import PICTURES, PictureCase


@pytest.mark.parametrize("case", PICTURES, ids=lambda case: case.name)
def test_pictures_that_people_have_are_read_right_or_refused_by_name(case: PictureCase) -> None:
    if isinstance(case.expected, str):
        with pytest.raises(PromptError, match=case.expected):
            decode_image_prompt(case.make())
        return
    read = decode_image_prompt(case.make()).image
    assert (read.mode, read.size) == (case.expected.mode, case.expected.size)
    pixels, expected = (composed(image) for image in (read, case.expected))
    difference = np.abs(pixels - expected)
    assert difference.max() <= case.tolerance, f"differs by {difference.max()} at {np.argmax(difference)}"
    # Nothing is left that another program could turn it by.
    assert read.info == {}


def composed(image: Image.Image) -> np.ndarray:
    """The pixels as integers; without the colours of what is transparent, which mean nothing."""
    pixels = np.asarray(image).astype(int)
    return np.where(pixels[..., 3:] == 0, 0, pixels) if image.mode == "RGBA" else pixels


@pytest.mark.parametrize(
    "case", [case for case in PICTURES if not isinstance(case.expected, str)][::3], ids=lambda case: case.name
)
def test_damage_anywhere_gives_an_image_or_a_prompt_error(case: PictureCase) -> None:
    chance, whole = random.Random(0), case.make()
    for _ in range(5):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 2, 5])):
            damaged[chance.randrange(len(damaged))] = chance.choice([0, 255, chance.randrange(256)])
        with warnings.catch_warnings():
            # Pillow warns of damage that it can live with.
            warnings.simplefilter("ignore")
            try:
                assert decode_image_prompt(bytes(damaged)).image.mode in ("RGB", "RGBA")
            except PromptError as error:
                assert str(error)


def test_the_corpus_is_large() -> None:
    assert len(PICTURES) >= 80
