"""The text encoder once more, under both flows: the structure's never asks for colours, so they fade from tokens."""

from __future__ import annotations

from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from scripts.train_tiny.latent_stages import latent_loss
from scripts.train_tiny.prompts import FINAL_TEXT_ENCODER, Prompts
from scripts.train_tiny.structure_stages import structure_loss, structure_samples
from scripts.train_tiny.training import train
from scripts.train_tiny.workplace import Workplace

# Objects whose structures a step looks at, and of these the ones whose latents.
_BATCH, _WITH_LATENTS = 64, 16


def text_encoder(place: Workplace, seconds: float) -> None:
    """Tokens from which both flows, frozen, make what the captions say."""
    prompts = Prompts(place.pool, place.folder, trained=True)
    encoder = prompts.texts.train().requires_grad_(True)
    structure_flow: Any = place.load("ss_flow_tiny", place.build("ss_flow_tiny"))
    latent_flow: Any = place.load("slat_flow_tiny", place.build("slat_flow_tiny"))
    samples = structure_samples(place)
    statistics = load_file(place.folder / "latent_statistics.safetensors", device=str(place.device))
    mean, std = statistics["mean"], statistics["std"]

    def losses(chosen: Tensor) -> dict[str, Tensor]:
        grid, values = place.pool.latents(chosen[:_WITH_LATENTS])
        with place.half_precision():
            conditions = prompts.of_sentences(chosen)
            some = conditions[:_WITH_LATENTS]
            return {
                "velocity of structures": structure_loss(structure_flow, samples[chosen], conditions),
                "velocity of latents": latent_loss(latent_flow, grid, (values - mean) / std, some),
            }

    trained: list[Any] = train(
        "text_encoder",
        [encoder],
        place.rows(_BATCH),
        [losses],
        seconds=seconds,
        rate=1e-3,
        log=place.log,
        captured=False,
    )
    trained[0].save_pretrained(place.folder / FINAL_TEXT_ENCODER)
