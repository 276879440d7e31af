"""The five stages of the training, each from the training set and the files of earlier stages to files of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.train_tiny.training.context import TrainingContext
from scripts.train_tiny.training.latents import STATISTICS, train_gaussian_decoder, train_latent_flow
from scripts.train_tiny.training.prompt_encoders import FINAL_TEXT_ENCODER, IMAGE_ENCODER, TEXT_ENCODER
from scripts.train_tiny.training.structure import train_structure_flow, train_structure_vae
from scripts.train_tiny.training.text_encoder import train_text_encoder


@dataclass(frozen=True)
class Stage:
    """A stage, the stems of the files it writes, and the seconds it takes on one H100."""

    train: Callable[[TrainingContext, float], None]
    files: tuple[str, ...]
    seconds: float

    def is_done(self, folder: Path) -> bool:
        """Return whether all files of the stage exist."""
        return all((folder / f"{file}.safetensors").is_file() for file in self.files)


STAGES = {
    "structure_vae": Stage(train_structure_vae, ("ss_dec_tiny", "structure_encoder"), 80),
    "structure_flow": Stage(
        train_structure_flow, ("ss_flow_tiny", f"{IMAGE_ENCODER}/model", f"{TEXT_ENCODER}/model"), 470
    ),
    "gaussian_decoder": Stage(train_gaussian_decoder, ("slat_dec_gs_tiny",), 80),
    "latent_flow": Stage(train_latent_flow, ("slat_flow_tiny", STATISTICS), 380),
    "text_encoder": Stage(train_text_encoder, (f"{FINAL_TEXT_ENCODER}/model",), 240),
}
