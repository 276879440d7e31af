"""The four trainings, each from the pool and the files of those before to files of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.sampling import Conditions, SamplerParams, euler_steps
from pipeline.trellis import SLatGaussianDecoder, VoxelGrid
from pipeline.trellis.checkpoint import NETWORK_CLASSES
from pipeline.trellis.gaussians import to_gaussians
from scripts.train_tiny.architecture import (
    IMAGE_SIZE,
    NETWORKS,
    PATCH_SIZE,
    TOKEN_WIDTH,
    StructureEncoder,
)
from scripts.train_tiny.measures import tolerant_iou
from scripts.train_tiny.pool import HELD_OUT, Pool, make_pool
from scripts.train_tiny.prompts import Prompts
from scripts.train_tiny.training import noisy, random_times, train, write_line
from scripts.train_tiny.voxels import RESOLUTION

# Of the gaussians that a voxel is covered with: discs on the surface, standard deviations in voxels.
_DISC_WIDTH, _DISC_THICKNESS, _OPACITY = 0.38, 0.12, 0.95
_SH_C0 = 0.28209479177387814
_KL_WEIGHT = 2e-4
_VAE_BATCH, _STRUCTURE_BATCH, _DECODER_BATCH, _LATENT_BATCH = 8, 128, 4, 24
_COLOURS = 2
# Objects that figures for the log are taken from, apart from those of the evaluation.
_CHECKED, _APART = 128, 1_000_000


@dataclass(frozen=True)
class Workplace:
    """Where the files are, what is trained on and where that is logged."""

    folder: Path
    pool: Pool
    log: Path
    generator: torch.Generator

    @property
    def device(self) -> torch.device:
        """The pool's."""
        return self.pool.pictures.device

    def build(self, name: str) -> Any:
        """A network of the shipped size with fresh weights, on the device."""
        class_name, args = NETWORKS[name]
        network = NETWORK_CLASSES[class_name.removeprefix("Elastic")](**args)
        initialise(network)
        return network.to(self.device).train()

    def load(self, name: str, network: nn.Module) -> Any:
        """The network with the weights an earlier stage saved, for use, not for training."""
        network.load_state_dict(load_file(self.folder / f"{name}.safetensors"))
        return network.to(self.device).eval().requires_grad_(False)

    def rows(self, batch: int) -> Iterator[Tensor]:
        """Random batches of the pool, without end."""
        return self.pool.batches(batch, self.generator)

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write a stage's file."""
        save_file(
            {key: value.contiguous().cpu() for key, value in tensors.items()}, self.folder / f"{name}.safetensors"
        )


def initialise(network: nn.Module) -> None:
    """Weights as upstream starts with: Xavier, small embeddings, and modulations and outputs of zero."""
    modules: list[Any] = list(network.modules())
    for module in modules:
        if isinstance(module, nn.Linear | nn.Conv3d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif hasattr(module, "gamma"):
            nn.init.ones_(module.gamma)
        elif type(module).__name__ == "_Kernel":
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=fan_in**-0.5)
            nn.init.zeros_(module.bias)
    for name, module in network.named_modules():
        if name.endswith(("adaLN_modulation.1", "emb_layers.1")) or (
            name == "out_layer" and isinstance(module, nn.Linear)
        ):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


def structure_vae(place: Workplace, seconds: float) -> None:
    """Occupancy to latents of unit size and back; the decoder is the shipped one."""
    encoder, decoder = StructureEncoder().to(place.device), place.build("ss_dec_tiny")
    for network in (encoder, decoder):
        network.to(memory_format=torch.channels_last_3d)
    rows = place.rows(_VAE_BATCH)

    def losses() -> dict[str, Tensor]:
        occupied = place.pool.occupied[next(rows)].float()
        with torch.autocast(place.device.type, torch.bfloat16):
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

    encoder_, decoder_ = train("structure_vae", [encoder, decoder], losses, seconds=seconds, rate=1e-3, log=place.log)
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
    means = torch.cat([encoder(part)[0] for part in place.pool.occupied[:1024].split(64)])
    return means.square().mean(dim=(0, 2, 3, 4)).sqrt()


def structure_flow(place: Workplace, seconds: float) -> None:
    """The flow of structures, and with it the two encoders."""
    flow, prompts = place.build("ss_flow_tiny"), Prompts(place.pool, place.folder)
    for block in flow.blocks:
        block.compile(dynamic=False)
    # Structures do not ask for colours, latents will: the pictures' tokens have to tell those of their patch.
    colours = nn.Linear(TOKEN_WIDTH, 3 * _COLOURS**2).to(place.device)
    tensors = load_file(place.folder / "structure_encoder.safetensors")
    spread = tensors.pop("spread").to(place.device).view(1, -1, 1, 1, 1)
    structure_encoder = StructureEncoder()
    structure_encoder.load_state_dict(tensors)
    structure_encoder.to(place.device).eval().requires_grad_(False)
    with torch.no_grad():
        samples = torch.cat([(structure_encoder(part)[0] / spread).half() for part in place.pool.occupied.split(256)])
    rows = place.rows(_STRUCTURE_BATCH)

    def losses() -> dict[str, Tensor]:
        chosen = next(rows)
        t = random_times(len(chosen), place.device)
        x, velocity = noisy(samples[chosen].float(), t.view(-1, 1, 1, 1, 1))
        with torch.autocast(place.device.type, torch.bfloat16):
            conditions, tokens = prompts.tokens(chosen)
            found = flow(x, 1000 * t, conditions)
        loss = F.mse_loss(found.float(), velocity)
        if tokens is None:
            return {"velocity of sentences": loss}
        seen = colours(tokens[:, -((IMAGE_SIZE // PATCH_SIZE) ** 2) :].float())
        return {"velocity": loss, "colours": 2 * F.mse_loss(seen, patch_colours(place.pool.pictures[chosen]))}

    trained = train(
        "structure_flow", [flow, *prompts.networks, colours], losses, seconds=seconds, rate=8e-4, log=place.log
    )
    prompts.images.load_state_dict(trained[1].state_dict())
    for name, network in zip(("ss_flow_tiny", "image_encoder", "text_encoder"), trained, strict=False):
        place.save(name, network.state_dict())
    _check_structures(place, trained[0], prompts)


@torch.no_grad()
def _check_structures(place: Workplace, flow: nn.Module, prompts: Prompts) -> None:
    """Log how well structures of new objects are sampled."""
    held_out = make_pool(_CHECKED, place.device, HELD_OUT + _APART)
    decoder = place.load("ss_dec_tiny", place.build("ss_dec_tiny"))
    tokens = prompts.image_tokens(held_out.pictures)

    def velocities(x: Tensor, t: float, contexts: Sequence[Tensor]) -> list[Tensor]:
        return [flow(x, torch.full((len(x),), 1000 * t, device=x.device), context) for context in contexts]

    for strength in (0.0, 2.5):
        params = SamplerParams(12, strength, (0.5, 1.0), 3.0)
        x = torch.randn(len(tokens), *(flow.in_channels, *[flow.resolution] * 3), device=place.device)
        for step in euler_steps(velocities, x, Conditions((tokens,), torch.zeros_like(tokens)), params):
            x = step.x_next
        found = decoder(x)[:, 0] > 0
        iou = [tolerant_iou(*pair) for pair in zip(found, held_out.occupied, strict=True)]
        write_line(place.log, {"stage": "structure_flow", "strength": strength, "tolerant_iou": mean(iou)})


def patch_colours(pictures: Tensor) -> Tensor:
    """uint8 [B, 3, S, S] -> mean colours [B, patches, 3 * 2 * 2] of the quarters of each patch, 0..1."""
    cells = F.avg_pool2d(pictures.float() / 255, PATCH_SIZE // _COLOURS)
    return F.unfold(cells, _COLOURS, stride=_COLOURS).transpose(1, 2)


def latent_statistics(place: Workplace) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [8] of the latents."""
    _, values = place.pool.latents(torch.arange(min(512, len(place.pool.captions))))
    return values.mean(dim=0), values.std(dim=0).clamp(min=0.05)


def gaussian_decoder(place: Workplace, seconds: float) -> None:
    """Latents to discs that cover the surface, in the colour of the voxel."""
    decoder: SLatGaussianDecoder = place.build("slat_dec_gs_tiny")
    rows = place.rows(_DECODER_BATCH)

    def losses() -> dict[str, Tensor]:
        grid, values = place.pool.latents(next(rows))
        # What the flow will hand over is not exact.
        noise = 0.05 * torch.rand((), device=place.device) * torch.randn_like(values)
        raw = decoder(values + noise, grid)
        return disc_losses(decoder, raw, grid, values)

    (decoder_,) = train("gaussian_decoder", [decoder], losses, seconds=seconds, rate=2e-3, log=place.log)
    place.save("slat_dec_gs_tiny", decoder_.state_dict())


def disc_losses(decoder: SLatGaussianDecoder, raw: Tensor, grid: VoxelGrid, values: Tensor) -> dict[str, Tensor]:
    """How far decoded gaussians are from discs on the surface that the latents `values` [N, 8] describe."""
    config = decoder.config
    found = to_gaussians(raw, grid, decoder.resolution, decoder.offset_perturbation, config)
    count = config.num_gaussians

    def each(x: Tensor) -> Tensor:
        return x.repeat_interleave(count, dim=0)

    normal = F.normalize(values[:, 3:6], dim=-1)
    spread = torch.tanh(decoder.offset_perturbation) * 0.5 * config.voxel_size
    spread = spread.repeat(len(values), 1)
    flat = spread - (spread * each(normal)).sum(-1, keepdim=True) * each(normal)
    centres = each((grid.positions.float() + 0.5) / RESOLUTION)
    places = centres + (flat + each(normal * values[:, 6:7])).clamp(-0.74, 0.74) / RESOLUTION
    sizes = torch.tensor([_DISC_WIDTH, _DISC_WIDTH, _DISC_THICKNESS], device=raw.device) / RESOLUTION
    colours = (each(values[:, :3]) / 2) / _SH_C0
    agreement = (third_axis(found.quaternions) * each(normal)).sum(-1).square()
    return {
        "place": 4 * (RESOLUTION * (found.xyz - places)).square().mean(),
        "size": (found.scales.log() - sizes.log()).square().mean(),
        "turn": (1 - agreement).mean(),
        "colour": (found.features_dc - colours).square().mean(),
        "opacity": 4 * (found.opacities - _OPACITY).square().mean(),
    }


def third_axis(quaternions: Tensor) -> Tensor:
    """Where unit quaternions [N, 4], w first, turn (0, 0, 1) to: [N, 3]."""
    w, x, y, z = quaternions.unbind(-1)
    return torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], dim=-1)


def latent_flow(place: Workplace, seconds: float) -> None:
    """The flow of latents on the voxels of a structure, under the frozen encoders."""
    flow, prompts = place.build("slat_flow_tiny"), Prompts(place.pool, place.folder)
    place.load("image_encoder", prompts.images)
    place.load("text_encoder", prompts.texts)
    mean, std = latent_statistics(place)
    rows = place.rows(_LATENT_BATCH)

    def losses() -> dict[str, Tensor]:
        chosen = next(rows)
        grid, values = place.pool.latents(chosen)
        t = random_times(len(chosen), place.device)
        x, velocity = noisy((values - mean) / std, t[grid.batch, None])
        with torch.autocast(place.device.type, torch.bfloat16):
            conditions, tokens = prompts.tokens(chosen)
            found = flow(x, grid, 1000 * t, conditions)
        name = "velocity of sentences" if tokens is None else "velocity"
        return {name: F.mse_loss(found.float(), velocity)}

    (flow_,) = train("latent_flow", [flow], losses, seconds=seconds, rate=1e-3, log=place.log)
    place.save("slat_flow_tiny", flow_.state_dict())
    place.save("latent_statistics", {"mean": mean, "std": std})


@dataclass(frozen=True)
class Stage:
    """A training, the files it makes, and its seconds on one H100."""

    run: Callable[[Workplace, float], None]
    files: tuple[str, ...]
    seconds: float


STAGES = {
    "structure_vae": Stage(structure_vae, ("ss_dec_tiny", "structure_encoder"), 80),
    "structure_flow": Stage(structure_flow, ("ss_flow_tiny", "image_encoder", "text_encoder"), 320),
    "gaussian_decoder": Stage(gaussian_decoder, ("slat_dec_gs_tiny",), 60),
    "latent_flow": Stage(latent_flow, ("slat_flow_tiny", "latent_statistics"), 250),
}
