"""The prompts of a soak's tasks: sentences, pictures, and some that cannot be used."""

import base64
import random
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from skimage import data

from scripts.demo import object_task
from scripts.train_tiny.eval.samples import held_out_object
from scripts.validation.picture_bombs import encode, jpeg_of_scans

OBJECTS = (2, 11, 5)
# Of all tasks: four of five of the subnet's are sentences, and a few pictures are broken.
SENTENCES, BROKEN = 0.7, 0.04


@dataclass(frozen=True)
class Prompts:
    """Prompts as the protocol has them: sentences, and pictures in base64, usable and not."""

    sentences: tuple[str, ...]
    pictures: tuple[str, ...]
    broken: tuple[str, ...]

    @staticmethod
    def make() -> "Prompts":
        """Draw the pictures; takes some seconds."""
        sentences = tuple(held_out_object(number, torch.device("cpu"))[0] for number in range(12))
        opaque = encode(Image.fromarray(data.coffee()), "JPEG")
        pictures = [object_task(str(number), number).prompt_text for number in OBJECTS]
        broken = (opaque[: len(opaque) // 2], b"no picture", jpeg_of_scans(90, side=256))
        return Prompts(sentences, (*pictures, _as_text(opaque)), tuple(map(_as_text, broken)))

    def draw(self, rng: random.Random) -> tuple[Literal["text", "image"], str]:
        """Return the type and the prompt of a task."""
        number = rng.random()
        if number < SENTENCES:
            return "text", rng.choice(self.sentences)
        return "image", rng.choice(self.broken if number > 1 - BROKEN else self.pictures)


def _as_text(file: bytes) -> str:
    return base64.b64encode(file).decode()
