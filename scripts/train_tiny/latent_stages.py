"""What lies in each voxel: gaussians from latents, and the flow of the latents."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.rendering.rasterizer import SH_C0
from pipeline.trellis import SLatGaussianDecoder, VoxelGrid
from pipeline.trellis.gaussians import to_gaussians
from scripts.train_tiny.prompts import Prompts
from scripts.train_tiny.training import noisy, random_times, train
from scripts.train_tiny.voxels import RESOLUTION
from scripts.train_tiny.workplace import Workplace

# Of the gaussians that a voxel is covered with: discs on the surface, standard deviations in voxels.
_DISC_WIDTH, _DISC_THICKNESS, _OPACITY = 0.2, 0.1, 0.95
# How far they lie below it, in voxels, and how far they spread, of the voxel: discs look larger than they are, and
# rasterisers blur. Silhouettes drawn of the targets themselves overlap 0.93 with the true ones, 0.89 without the two.
_INSET, _SPREAD = 0.2, 0.9
# Of length 1, and along no edge that objects have.
_WAY = (0.48, 0.60, 0.64)
_DECODER_BATCH, _FLOW_BATCH = 4, 32


def latent_statistics(place: Workplace) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [8] of the latents."""
    _, values = place.pool.latents(place.pool.some(512))
    return values.mean(dim=0), values.std(dim=0).clamp(min=0.05)


def gaussian_decoder(place: Workplace, seconds: float) -> None:
    """Latents to discs that cover the surface, in the colour of the voxel."""
    decoder: SLatGaussianDecoder = place.build("slat_dec_gs_tiny")

    def losses(chosen: Tensor) -> dict[str, Tensor]:
        grid, values = place.pool.latents(chosen)
        # What the flow will hand over is not exact.
        noise = 0.05 * torch.rand((), device=place.device) * torch.randn_like(values)
        raw = decoder(values + noise, grid)
        return disc_losses(decoder, raw, grid, values)

    (decoder_,) = train(
        "gaussian_decoder",
        [decoder],
        place.rows(_DECODER_BATCH),
        [losses],
        seconds=seconds,
        rate=2e-3,
        log=place.log,
        captured=False,
    )
    place.save("slat_dec_gs_tiny", decoder_.state_dict())


def disc_losses(decoder: SLatGaussianDecoder, raw: Tensor, grid: VoxelGrid, values: Tensor) -> dict[str, Tensor]:
    """How far decoded gaussians are from discs on the surface that the latents `values` [N, 8] describe."""
    config = decoder.config
    found = to_gaussians(raw, grid, decoder.resolution, decoder.offset_perturbation, config)
    count = config.num_gaussians

    def each(x: Tensor) -> Tensor:
        return x.repeat_interleave(count, dim=0)

    normal = F.normalize(values[:, 3:6], dim=-1)
    spread = _SPREAD * torch.tanh(decoder.offset_perturbation) * 0.5 * config.voxel_size
    spread = spread.repeat(len(values), 1)
    flat = spread - (spread * each(normal)).sum(-1, keepdim=True) * each(normal)
    centres = each((grid.positions.float() + 0.5) / RESOLUTION)
    places = centres + (flat + each(normal * (values[:, 6:7] - _INSET))).clamp(-0.74, 0.74) / RESOLUTION
    sizes = torch.tensor([_DISC_WIDTH, _DISC_WIDTH, _DISC_THICKNESS], device=raw.device) / RESOLUTION
    colours = (each(values[:, :3]) / 2) / SH_C0
    agreement = (found.quaternions * each(disc_quaternions(normal))).sum(-1).square()
    return {
        "place": 4 * (RESOLUTION * (found.xyz - places)).square().mean(),
        "size": (found.scales.log() - sizes.log()).square().mean(),
        "turn": (1 - agreement).mean(),
        "colour": (found.features_dc - colours).square().mean(),
        "opacity": 4 * (found.opacities - _OPACITY).square().mean(),
    }


def disc_quaternions(normal: Tensor) -> Tensor:
    """Unit quaternions [N, 4], w first, that turn (0, 0, 1) to the normals [N, 3].

    By way of one fixed direction, whose opposite is the only one they jump at: before they are normalised they are
    linear in the normal, which a network learns quickly, and of the surfaces of objects few look that way.
    """
    way = normal.new_tensor(_WAY)
    to_way = torch.stack([1 + way[2], -way[1], way[0], torch.zeros_like(way[0])])
    w, x, y, z = torch.cat([1 + (normal @ way)[:, None], torch.linalg.cross(way.expand_as(normal), normal)], 1).unbind(
        1
    )
    a, b, c, d = to_way.unbind()
    product = [w * a - x * b - y * c - z * d, w * b + x * a + y * d - z * c]
    product += [w * c - x * d + y * a + z * b, w * d + x * c - y * b + z * a]
    return F.normalize(torch.stack(product, dim=1), dim=-1)


def latent_loss(flow: Any, grid: VoxelGrid, samples: Tensor, conditions: Tensor) -> Tensor:
    """How far velocities are off at random times: samples [N, 8] on the voxels of a grid, of unit size."""
    t = random_times(len(conditions), samples.device)
    x, velocity = noisy(samples, t[grid.batch, None])
    return F.mse_loss(flow(x, grid, 1000 * t, conditions).float(), velocity)


def latent_flow(place: Workplace, seconds: float) -> None:
    """The flow of latents on the voxels of a structure, under the frozen encoders."""
    flow, prompts = place.build("slat_flow_tiny"), Prompts(place.pool, place.folder, trained=True)
    mean, std = latent_statistics(place)

    def velocity_loss(chosen: Tensor, conditions: Tensor) -> Tensor:
        grid, values = place.pool.latents(chosen)
        return latent_loss(flow, grid, (values - mean) / std, conditions)

    def pictures(chosen: Tensor) -> dict[str, Tensor]:
        with place.half_precision():
            return {"velocity": velocity_loss(chosen, prompts.of_pictures(chosen)[0])}

    def sentences(chosen: Tensor) -> dict[str, Tensor]:
        with place.half_precision():
            return {"velocity of sentences": velocity_loss(chosen, prompts.of_sentences(chosen))}

    (flow_,) = train(
        "latent_flow",
        [flow],
        place.rows(_FLOW_BATCH),
        [pictures, pictures, pictures, sentences],
        seconds=seconds,
        rate=1e-3,
        log=place.log,
        captured=False,
    )
    place.save("slat_flow_tiny", flow_.state_dict())
    place.save("latent_statistics", {"mean": mean, "std": std})
