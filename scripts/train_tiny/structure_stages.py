"""From occupied voxels to latents and back, and the flow of those latents with its encoders of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.params import NEGATIVE, Conditions, SamplerParams
from pipeline.sampling.euler import euler_steps, schedule
from scripts.train_tiny.architecture import PATCH_CONTENTS, TOKEN_WIDTH, StructureEncoder
from scripts.train_tiny.measures import tolerant_iou
from scripts.train_tiny.pool import HELD_OUT, make_pool
from scripts.train_tiny.prompts import Prompts
from scripts.train_tiny.training import noisy, random_times, train, write_line
from scripts.train_tiny.workplace import Workplace

_KL_WEIGHT = 1e-3
_VAE_BATCH, _FLOW_BATCH = 8, 160
_PATCHES_WEIGHT = 10.0
# Objects that figures for the log are taken from, apart from those of the evaluation.
_CHECKED, _APART = 128, 1_000_000


def structure_vae(place: Workplace, seconds: float) -> None:
    """Occupancy to latents of unit size and back; the decoder is the shipped one."""
    encoder, decoder = StructureEncoder().to(place.device), place.build("ss_dec_tiny")
    networks: list[Any] = [encoder, decoder]
    for network in networks:
        network.to(memory_format=torch.channels_last_3d)

    def losses(chosen: Tensor) -> dict[str, Tensor]:
        occupied = place.pool.occupied[chosen].float()
        with place.half_precision():
            mean, log_variance = encoder(occupied)
            sample = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            logits = decoder(sample.float())[:, 0].float()
        p = torch.sigmoid(logits)
        overlap = 2 * (p * occupied).sum() / (p.sum() + occupied.sum())
        kl = 0.5 * (mean.float().square() + log_variance.float().exp() - 1 - log_variance.float()).mean()
        return {
            "entropy": 20 * F.binary_cross_entropy_with_logits(logits, occupied),
            "dice": 1 - overlap,
            "kl": _KL_WEIGHT * kl,
        }

    encoder_, decoder_ = train(
        "structure_vae",
        [encoder, decoder],
        place.rows(_VAE_BATCH),
        [losses],
        seconds=seconds,
        rate=1e-3,
        log=place.log,
        captured=place.graphs,
    )
    spread = _structure_spread(place, encoder_)
    tensors = dict(decoder_.state_dict())
    # The flow works on latents of unit size; the decoder takes them so.
    tensors["input_layer.weight"] = tensors["input_layer.weight"] * spread.view(1, -1, 1, 1, 1)
    place.save("ss_dec_tiny", tensors)
    place.save("structure_encoder", encoder_.state_dict() | {"spread": spread})
    with torch.no_grad():
        occupied = make_pool(_CHECKED, place.device, HELD_OUT + _APART).occupied
        found = decoder_(encoder_(occupied)[0])[:, 0] > 0
    iou = [tolerant_iou(*pair) for pair in zip(found, occupied, strict=True)]
    exact = (found & occupied).sum() / (found | occupied).sum()
    write_line(place.log, {"stage": "structure_vae", "tolerant_iou": mean(iou), "iou": float(exact)})


@torch.no_grad()
def _structure_spread(place: Workplace, encoder: nn.Module) -> Tensor:
    means = torch.cat([encoder(part)[0] for part in place.pool.occupied[place.pool.some(1024)].split(64)])
    return means.square().mean(dim=(0, 2, 3, 4)).sqrt()


@torch.no_grad()
def structure_samples(place: Workplace) -> Tensor:
    """What the flow of structures has to make: the pool's latents [N, 8, 16, 16, 16] float16, of unit size."""
    tensors = load_file(place.folder / "structure_encoder.safetensors")
    spread = tensors.pop("spread").to(place.device).view(1, -1, 1, 1, 1)
    encoder = StructureEncoder()
    encoder.load_state_dict(tensors)
    encoder.to(place.device).eval()
    return torch.cat([(encoder(part)[0] / spread).half() for part in place.pool.occupied.split(256)])


def structure_loss(flow: Any, samples: Tensor, conditions: Tensor) -> Tensor:
    """How far velocities are off at random times: samples [B, 8, 16, 16, 16]."""
    t = random_times(len(samples), samples.device)
    x, velocity = noisy(samples.float(), t.view(-1, 1, 1, 1, 1))
    return F.mse_loss(flow(x, 1000 * t, conditions).float(), velocity)


def structure_flow(place: Workplace, seconds: float) -> None:
    """The flow of structures, and with it the two encoders."""
    flow, prompts = place.build("ss_flow_tiny"), Prompts(place.pool, place.folder, trained=False)
    if place.device.type == "cuda":
        for block in flow.blocks:
            block.compile(dynamic=False)
    # The pictures' tokens have to tell what is in their patch: the flow alone teaches slowly where that is in space,
    # and never its colours, which latents will ask for.
    contents = nn.Linear(TOKEN_WIDTH, PATCH_CONTENTS).to(place.device)
    samples = structure_samples(place)

    def pictures(chosen: Tensor) -> dict[str, Tensor]:
        with place.half_precision():
            conditions, tokens = prompts.of_pictures(chosen)
            loss = structure_loss(flow, samples[chosen], conditions)
        truth = place.pool.patches[chosen].float()
        told = contents(tokens[:, -truth.shape[1] :].float())
        return {"velocity": loss, "patches": _PATCHES_WEIGHT * F.mse_loss(told, truth)}

    def sentences(chosen: Tensor) -> dict[str, Tensor]:
        with place.half_precision():
            loss = structure_loss(flow, samples[chosen], prompts.of_sentences(chosen))
        return {"velocity of sentences": loss}

    trained = train(
        "structure_flow",
        [flow, *prompts.networks, contents],
        place.rows(_FLOW_BATCH),
        [pictures, pictures, pictures, sentences],
        seconds=seconds,
        rate=1e-3,
        log=place.log,
        captured=place.graphs,
    )
    place.save("ss_flow_tiny", trained[0].state_dict())
    prompts.images, prompts.texts = trained[1:3]
    prompts.save(place.folder)
    _check_structures(place, trained[0], prompts)


@torch.no_grad()
def _check_structures(place: Workplace, flow: Any, prompts: Prompts) -> None:
    """Log how well structures of new objects are sampled."""
    held_out = make_pool(_CHECKED, place.device, HELD_OUT + _APART)
    decoder = place.load("ss_dec_tiny", place.build("ss_dec_tiny"))
    tokens = prompts.image_tokens(held_out.pictures)

    contexts = {0: tokens, NEGATIVE: torch.zeros_like(tokens)}
    times = schedule(12, 3.0)

    def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
        time = torch.full((len(x),), 1000 * times[step], device=x.device)
        return [flow(x, time, contexts[index]) for index in indices]

    for strength in (0.0, 2.5):
        params = SamplerParams(12, strength, (0.5, 1.0), 3.0)
        x = torch.randn(len(tokens), *(flow.in_channels, *[flow.resolution] * 3), device=place.device)
        for step in euler_steps(velocities, x, Conditions((tokens,), contexts[NEGATIVE]), params):
            x = step.x_next
        found = decoder(x)[:, 0] > 0
        iou = [tolerant_iou(*pair) for pair in zip(found, held_out.occupied, strict=True)]
        write_line(place.log, {"stage": "structure_flow", "strength": strength, "tolerant_iou": mean(iou)})
