"""The four trainings, each from the pool and the files of those before to files of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.conditioning import normalised_pixels, normalised_tokens
from pipeline.trellis import SLatGaussianDecoder, VoxelGrid
from pipeline.trellis.checkpoint import NETWORK_CLASSES
from pipeline.trellis.gaussians import to_gaussians
from scripts.train_tiny.architecture import NETWORKS, StructureEncoder, image_encoder
from scripts.train_tiny.pool import Pool
from scripts.train_tiny.training import drop_conditions, noisy, random_times, train
from scripts.train_tiny.voxels import RESOLUTION

# Of the gaussians that a voxel is covered with: discs on the surface, standard deviations in voxels.
_DISC_WIDTH, _DISC_THICKNESS, _OPACITY = 0.38, 0.12, 0.95
_SH_C0 = 0.28209479177387814
_KL_WEIGHT = 2e-4
_VAE_BATCH, _DECODER_BATCH, _LATENT_BATCH = 32, 16, 48


@dataclass(frozen=True)
class Workplace:
    """Where the files are, what is trained on, and for how long each stage may run."""

    folder: Path
    pool: Pool
    seconds: float
    batch: int
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


def structure_vae(place: Workplace, log: Path) -> None:
    """Occupancy to latents of unit size and back; the decoder is the shipped one."""
    encoder, decoder = StructureEncoder().to(place.device), place.build("ss_dec_tiny")
    rows = place.pool.batches(_VAE_BATCH, place.generator)

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

    encoder_, decoder_ = train("structure_vae", [encoder, decoder], losses, seconds=place.seconds, rate=1e-3, log=log)
    spread = _structure_spread(place, encoder_.network)
    tensors = dict(decoder_.network.state_dict())
    # The flow works on latents of unit size; the decoder takes them so.
    tensors["input_layer.weight"] = tensors["input_layer.weight"] * spread.view(1, -1, 1, 1, 1)
    place.save("ss_dec_tiny", tensors)
    place.save("structure_encoder", encoder_.network.state_dict() | {"spread": spread})


@torch.no_grad()
def _structure_spread(place: Workplace, encoder: nn.Module) -> Tensor:
    means = torch.cat([encoder(part)[0] for part in place.pool.occupied[:1024].split(64)])
    return means.square().mean(dim=(0, 2, 3, 4)).sqrt()


def structure_flow(place: Workplace, log: Path) -> None:
    """The flow of structures, and with it the image encoder."""
    flow, encoder = place.build("ss_flow_tiny"), image_encoder().to(place.device)
    tensors = load_file(place.folder / "structure_encoder.safetensors")
    spread = tensors.pop("spread").to(place.device).view(1, -1, 1, 1, 1)
    structure_encoder = StructureEncoder()
    structure_encoder.load_state_dict(tensors)
    structure_encoder.to(place.device).eval().requires_grad_(False)
    with torch.no_grad():
        samples = torch.cat([(structure_encoder(part)[0] / spread).half() for part in place.pool.occupied.split(256)])
    rows = place.pool.batches(place.batch, place.generator)

    def losses() -> dict[str, Tensor]:
        chosen = next(rows)
        t = random_times(len(chosen), place.device)
        x, velocity = noisy(samples[chosen].float(), t.view(-1, 1, 1, 1, 1))
        with torch.autocast(place.device.type, torch.bfloat16):
            tokens = tokens_of(encoder, place.pool.pictures[chosen])
            found = flow(x, 1000 * t, drop_conditions(tokens))
        return {"velocity": F.mse_loss(found.float(), velocity)}

    flow_, encoder_ = train("structure_flow", [flow, encoder], losses, seconds=place.seconds, rate=8e-4, log=log)
    place.save("ss_flow_tiny", flow_.network.state_dict())
    place.save("image_encoder", encoder_.network.state_dict())


def tokens_of(encoder: Any, pictures: Tensor) -> Tensor:
    """uint8 [B, 3, S, S] -> tokens [B, T, C], as the pipeline makes them."""
    return normalised_tokens(encoder(normalised_pixels(pictures.float() / 255)).last_hidden_state)


def latent_statistics(place: Workplace) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [8] of the latents."""
    _, values = place.pool.latents(torch.arange(min(512, len(place.pool.objects))))
    return values.mean(dim=0), values.std(dim=0).clamp(min=0.05)


def gaussian_decoder(place: Workplace, log: Path) -> None:
    """Latents to discs that cover the surface, in the colour of the voxel."""
    decoder: SLatGaussianDecoder = place.build("slat_dec_gs_tiny")
    rows = place.pool.batches(_DECODER_BATCH, place.generator)

    def losses() -> dict[str, Tensor]:
        grid, values = place.pool.latents(next(rows))
        # What the flow will hand over is not exact.
        noise = 0.05 * torch.rand((), device=place.device) * torch.randn_like(values)
        raw = decoder(values + noise, grid)
        return disc_losses(decoder, raw, grid, values)

    (decoder_,) = train("gaussian_decoder", [decoder], losses, seconds=place.seconds, rate=2e-3, log=log)
    place.save("slat_dec_gs_tiny", decoder_.network.state_dict())


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
    quaternions = each(turned_from_z(normal))
    agreement = (found.quaternions * quaternions).sum(-1).square()
    return {
        "place": 4 * (RESOLUTION * (found.xyz - places)).square().mean(),
        "size": (found.scales.log() - sizes.log()).square().mean(),
        "turn": (1 - agreement).mean(),
        "colour": (found.features_dc - colours).square().mean(),
        "opacity": 4 * (found.opacities - _OPACITY).square().mean(),
    }


def turned_from_z(normal: Tensor) -> Tensor:
    """Unit quaternions [N, 4], w first, that turn (0, 0, 1) to the normals [N, 3] or, which is the same for a disc, to
    their opposites: of the two, the one with z >= 0."""
    upper = torch.where(normal[:, 2:] < 0, -normal, normal)
    x, y, z = upper.unbind(-1)
    return F.normalize(torch.stack([1 + z, -y, x, torch.zeros_like(x)], dim=-1), dim=-1)


def latent_flow(place: Workplace, log: Path) -> None:
    """The flow of latents on the voxels of a structure, under the frozen image encoder."""
    flow, encoder = place.build("slat_flow_tiny"), place.load("image_encoder", image_encoder())
    mean, std = latent_statistics(place)
    rows = place.pool.batches(_LATENT_BATCH, place.generator)

    def losses() -> dict[str, Tensor]:
        chosen = next(rows)
        grid, values = place.pool.latents(chosen)
        t = random_times(len(chosen), place.device)
        x, velocity = noisy((values - mean) / std, t[grid.batch, None])
        with torch.autocast(place.device.type, torch.bfloat16):
            tokens = tokens_of(encoder, place.pool.pictures[chosen])
            found = flow(x, grid, 1000 * t, drop_conditions(tokens))
        return {"velocity": F.mse_loss(found.float(), velocity)}

    (flow_,) = train("latent_flow", [flow], losses, seconds=place.seconds, rate=1e-3, log=log)
    place.save("slat_flow_tiny", flow_.network.state_dict())
    place.save("latent_statistics", {"mean": mean, "std": std})


STAGES: dict[str, tuple[Callable[[Workplace, Path], None], tuple[str, ...]]] = {
    # Name -> the training, and the files it makes.
    "structure_vae": (structure_vae, ("ss_dec_tiny", "structure_encoder")),
    "structure_flow": (structure_flow, ("ss_flow_tiny", "image_encoder")),
    "gaussian_decoder": (gaussian_decoder, ("slat_dec_gs_tiny",)),
    "latent_flow": (latent_flow, ("slat_flow_tiny", "latent_statistics")),
}
