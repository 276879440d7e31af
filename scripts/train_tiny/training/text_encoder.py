"""The text encoder's own stage, with both flows frozen.

The structure flow, which the encoder is first trained with, makes no use of colours, so that they fade from its tokens.
"""

from __future__ import annotations

from torch import Tensor

from scripts.train_tiny.training.context import TrainingContext
from scripts.train_tiny.training.flow_matching import latent_loss, structure_loss
from scripts.train_tiny.training.latents import load_latent_statistics
from scripts.train_tiny.training.prompt_encoders import FINAL_TEXT_ENCODER, PromptEncoders
from scripts.train_tiny.training.structure import encode_structures

# Objects in a batch, and those of them whose latents are sampled, too.
_BATCH, _LATENT_BATCH = 64, 16


def train_text_encoder(context: TrainingContext, seconds: float) -> None:
    """Train tokens from which both flows generate the object that the caption describes."""
    encoders = PromptEncoders(context.dataset, context.folder, trained=True)
    encoders.text.train().requires_grad_(True)
    structure_flow, latent_flow = context.load("ss_flow_tiny"), context.load("slat_flow_tiny")
    samples = encode_structures(context)
    mean, std = load_latent_statistics(context)

    def losses(rows: Tensor) -> dict[str, Tensor]:
        grid, latents = context.dataset.latents(rows[:_LATENT_BATCH])
        with context.autocast():
            conditions = encoders.text_conditions(rows)
            return {
                "velocity of structures": structure_loss(structure_flow, samples[rows], conditions),
                "velocity of latents": latent_loss(
                    latent_flow, grid, (latents - mean) / std, conditions[:_LATENT_BATCH]
                ),
            }

    (trained,) = context.optimise("text_encoder", [encoders.text], [losses], _BATCH, seconds)
    trained.save_pretrained(context.folder / FINAL_TEXT_ENCODER)
