"""The later stages: the decoder of latents to gaussians, the flow of latents on voxels, and the text encoder's own."""

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from pipeline.rendering.rules import SH_C0
from pipeline.trellis import SLatGaussianDecoder, VoxelGrid
from pipeline.trellis.gaussians import to_gaussians
from scripts.train_tiny.data.voxels import RESOLUTION
from scripts.train_tiny.training.context import TrainingContext
from scripts.train_tiny.training.flow_matching import latent_loss, structure_loss
from scripts.train_tiny.training.prompt_encoders import FINAL_TEXT_ENCODER, PromptEncoders
from scripts.train_tiny.training.structure import encode_structures

# Gaussians are discs that cover the surface in a voxel: standard deviations in voxels.
_DISC_WIDTH, _DISC_THICKNESS, _OPACITY = 0.2, 0.1, 0.95
# How far discs lie below the surface, in voxels, and the share of the voxel that they cover: they look larger than they
# are, and rasterisers blur. Silhouettes rendered of the targets themselves overlap 0.93 with the true ones, 0.89
# without these two corrections.
_INSET, _COVERAGE = 0.2, 0.9
# Of length 1, and along no edge of the objects.
_REFERENCE_DIRECTION = (0.48, 0.60, 0.64)
_DECODER_BATCH, _FLOW_BATCH, _TEXT_BATCH = 4, 32, 64
# Objects of a batch of the text encoder whose latents are sampled, too.
_LATENT_BATCH = 16
STATISTICS = "latent_statistics"


def train_gaussian_decoder(context: TrainingContext, seconds: float) -> None:
    """Train the decoder of latents to discs that cover the surface in the colour of the voxel."""
    decoder: SLatGaussianDecoder = context.build("slat_dec_gs_tiny")

    def losses(rows: Tensor) -> dict[str, Tensor]:
        grid, latents = context.dataset.latents(rows)
        # The latents that the flow generates are not exact.
        noise = 0.05 * torch.rand((), device=context.device) * torch.randn_like(latents)
        return disc_losses(decoder, decoder(latents + noise, grid), grid, latents)

    (trained,) = context.optimise("gaussian_decoder", [decoder], [losses], _DECODER_BATCH, seconds, learning_rate=2e-3)
    context.save("slat_dec_gs_tiny", trained.state_dict())


def disc_losses(decoder: SLatGaussianDecoder, raw: Tensor, grid: VoxelGrid, latents: Tensor) -> dict[str, Tensor]:
    """Compare decoded gaussians with discs on the surface that the latents [N, 8] describe."""
    config = decoder.config
    gaussians = to_gaussians(raw, grid, decoder.resolution, decoder.offset_perturbation, config)

    def per_gaussian(x: Tensor) -> Tensor:
        return x.repeat_interleave(config.num_gaussians, dim=0)

    normal = F.normalize(latents[:, 3:6], dim=-1)
    offset = _COVERAGE * torch.tanh(decoder.offset_perturbation) * 0.5 * config.voxel_size
    offset = offset.repeat(len(latents), 1)
    in_plane = offset - (offset * per_gaussian(normal)).sum(-1, keepdim=True) * per_gaussian(normal)
    centres = per_gaussian((grid.positions.float() + 0.5) / RESOLUTION)
    depth = per_gaussian(normal * (latents[:, 6:7] - _INSET))
    positions = centres + (in_plane + depth).clamp(-0.74, 0.74) / RESOLUTION
    scales = torch.tensor([_DISC_WIDTH, _DISC_WIDTH, _DISC_THICKNESS], device=raw.device) / RESOLUTION
    colours = (per_gaussian(latents[:, :3]) / 2) / SH_C0
    alignment = (gaussians.quaternions * per_gaussian(disc_quaternions(normal))).sum(-1).square()
    return {
        "place": 4 * (RESOLUTION * (gaussians.xyz - positions)).square().mean(),
        "size": (gaussians.scales.log() - scales.log()).square().mean(),
        "turn": (1 - alignment).mean(),
        "colour": (gaussians.features_dc - colours).square().mean(),
        "opacity": 4 * (gaussians.opacities - _OPACITY).square().mean(),
    }


def disc_quaternions(normal: Tensor) -> Tensor:
    """Return unit quaternions [N, 4], w first, that rotate (0, 0, 1) to the normals [N, 3].

    They rotate by way of one reference direction and are discontinuous only at its opposite. Before they are normalised
    they are linear in the normal, which a network learns quickly, and few surfaces of objects face that way.
    """
    reference = normal.new_tensor(_REFERENCE_DIRECTION)
    to_reference = torch.stack([1 + reference[2], -reference[1], reference[0], torch.zeros_like(reference[0])])
    cross = torch.linalg.cross(reference.expand_as(normal), normal)
    w, x, y, z = torch.cat([1 + (normal @ reference)[:, None], cross], 1).unbind(1)
    a, b, c, d = to_reference.unbind()
    product = [w * a - x * b - y * c - z * d, w * b + x * a + y * d - z * c]
    product += [w * c - x * d + y * a + z * b, w * d + x * c - y * b + z * a]
    return F.normalize(torch.stack(product, dim=1), dim=-1)


def train_latent_flow(context: TrainingContext, seconds: float) -> None:
    """Train the flow of latents on the voxels of a structure, with the encoders frozen."""
    flow, encoders = context.build("slat_flow_tiny"), PromptEncoders(context.dataset, context.folder, trained=True)
    _, latents = context.dataset.latents(context.dataset.spaced_rows(512))
    mean, std = latents.mean(dim=0), latents.std(dim=0).clamp(min=0.05)

    def velocity_loss(rows: Tensor, conditions: Tensor) -> Tensor:
        grid, latents = context.dataset.latents(rows)
        return latent_loss(flow, grid, (latents - mean) / std, conditions)

    def image_losses(rows: Tensor) -> dict[str, Tensor]:
        with context.autocast():
            return {"velocity": velocity_loss(rows, encoders.image_conditions(rows)[0])}

    def text_losses(rows: Tensor) -> dict[str, Tensor]:
        with context.autocast():
            return {"velocity of sentences": velocity_loss(rows, encoders.text_conditions(rows))}

    turns = [image_losses, image_losses, image_losses, text_losses]
    (trained,) = context.optimise("latent_flow", [flow], turns, _FLOW_BATCH, seconds)
    context.save("slat_flow_tiny", trained.state_dict())
    context.save(STATISTICS, {"mean": mean, "std": std})


def train_text_encoder(context: TrainingContext, seconds: float) -> None:
    """Train tokens from which both flows, which are frozen, generate the object that the caption describes.

    The structure flow, which the encoder is first trained with, makes no use of colours, so that they fade from its
    tokens.
    """
    encoders = PromptEncoders(context.dataset, context.folder, trained=True)
    encoders.text.train().requires_grad_(True)
    structure_flow, latent_flow = context.load("ss_flow_tiny"), context.load("slat_flow_tiny")
    samples = encode_structures(context)
    statistics = load_file(context.folder / f"{STATISTICS}.safetensors", device=str(context.device))

    def losses(rows: Tensor) -> dict[str, Tensor]:
        grid, latents = context.dataset.latents(rows[:_LATENT_BATCH])
        latents = (latents - statistics["mean"]) / statistics["std"]
        with context.autocast():
            conditions = encoders.text_conditions(rows)
            return {
                "velocity of structures": structure_loss(structure_flow, samples[rows], conditions),
                "velocity of latents": latent_loss(latent_flow, grid, latents, conditions[:_LATENT_BATCH]),
            }

    (trained,) = context.optimise("text_encoder", [encoders.text], [losses], _TEXT_BATCH, seconds)
    trained.save_pretrained(context.folder / FINAL_TEXT_ENCODER)
