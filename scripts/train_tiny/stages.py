"""The five trainings, each from the pool and the files of those before to files of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scripts.train_tiny.latent_stages import gaussian_decoder, latent_flow
from scripts.train_tiny.prompts import FINAL_TEXT_ENCODER
from scripts.train_tiny.structure_stages import structure_flow, structure_vae
from scripts.train_tiny.text_encoder_stage import text_encoder
from scripts.train_tiny.workplace import Workplace


@dataclass(frozen=True)
class Stage:
    """A training, the files it makes, and its seconds on one H100."""

    run: Callable[[Workplace, float], None]
    files: tuple[str, ...]
    seconds: float


STAGES = {
    "structure_vae": Stage(structure_vae, ("ss_dec_tiny", "structure_encoder"), 80),
    "structure_flow": Stage(structure_flow, ("ss_flow_tiny", "image_encoder/model", "text_encoder/model"), 470),
    "gaussian_decoder": Stage(gaussian_decoder, ("slat_dec_gs_tiny",), 80),
    "latent_flow": Stage(latent_flow, ("slat_flow_tiny", "latent_statistics"), 380),
    "text_encoder": Stage(text_encoder, (f"{FINAL_TEXT_ENCODER}/model",), 240),
}
