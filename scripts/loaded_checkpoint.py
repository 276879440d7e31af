"""A checkpoint with its encoder, without a background model: what benchmarks and evaluations generate with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from pipeline import ComputeConfig
from pipeline.conditioning.image_encoder import ImageEncoder
from pipeline.conditioning.text_encoder import TextEncoder
from pipeline.params import Conditions
from pipeline.sampling.engine import Engine
from pipeline.trellis.checkpoint import LoadedNetworks, load_checkpoint


@dataclass(frozen=True, eq=False)
class LoadedCheckpoint:
    """The networks of a checkpoint, and the encoder of its prompts.

    encode: returns the tokens [1, S, C] of an image that is framed already, or of a text.
    negative: the tokens of the negative condition; None for images, whose negative condition is zero.
    """

    engine: Engine
    encode: Callable[[Any], Tensor]
    negative: Tensor | None

    @staticmethod
    def load(
        directory: Path, compute: ComputeConfig, shared_networks: LoadedNetworks | None = None
    ) -> "LoadedCheckpoint":
        """Load a checkpoint; networks in `shared_networks` are used again, and those loaded are added to it.

        Raises CheckpointError.
        """
        checkpoint = load_checkpoint(directory, compute.device, compute.dtype, loaded=shared_networks)
        engine = Engine(checkpoint, compute)
        if "image_cond_model" in checkpoint.encoders:
            images = ImageEncoder(checkpoint.locate_encoder("image_cond_model"), compute.device)
            return LoadedCheckpoint(engine, images, None)
        texts = TextEncoder(checkpoint.locate_encoder("text_cond_model"), compute.device)
        return LoadedCheckpoint(engine, texts, texts.null)

    @property
    def takes_text(self) -> bool:
        """Whether prompts are texts and not images."""
        return self.negative is not None

    def conditions(self, prompt: Image.Image | str) -> Conditions:
        """Return what both samplers are conditioned on, from an image that is framed already, or a text."""
        return Conditions((self.encode(prompt),), self.negative)
