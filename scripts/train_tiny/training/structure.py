"""The structure stages: a VAE of occupancies, and the flow of its latents together with the prompt encoders."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.params import NEGATIVE, Conditions, SamplerParams
from pipeline.sampling.euler import euler_steps, schedule
from scripts.train_tiny.architecture import PATCH_CHANNELS, TOKEN_WIDTH, StructureEncoder
from scripts.train_tiny.data.dataset import FIRST_HELD_OUT_SEED, Dataset, make_dataset
from scripts.train_tiny.eval.metrics import tolerant_iou
from scripts.train_tiny.training.context import TrainingContext
from scripts.train_tiny.training.flow_matching import structure_loss
from scripts.train_tiny.training.prompt_encoders import PromptEncoders

_KL_WEIGHT = 1e-3
_VAE_BATCH, _FLOW_BATCH = 8, 160
_PATCH_WEIGHT = 10.0
# Objects that the figures in the log are computed on, apart from those of the evaluation.
_VALIDATION_SIZE, _FIRST_VALIDATION_SEED = 128, FIRST_HELD_OUT_SEED + 1_000_000


def train_structure_vae(context: TrainingContext, seconds: float) -> None:
    """Train the encoder of occupancies to latents of unit scale, and the decoder, which is shipped."""
    encoder, decoder = StructureEncoder().to(context.device), context.build("ss_dec_tiny")
    networks: list[Any] = [encoder, decoder]
    for network in networks:
        network.to(memory_format=torch.channels_last_3d)

    def losses(rows: Tensor) -> dict[str, Tensor]:
        occupancy = context.dataset.occupancy[rows].float()
        with context.autocast():
            mean, log_variance = encoder(occupancy)
            sample = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            logits = decoder(sample.float())[:, 0].float()
        p = torch.sigmoid(logits)
        overlap = 2 * (p * occupancy).sum() / (p.sum() + occupancy.sum())
        kl = 0.5 * (mean.float().square() + log_variance.float().exp() - 1 - log_variance.float()).mean()
        return {
            "entropy": 20 * F.binary_cross_entropy_with_logits(logits, occupancy),
            "dice": 1 - overlap,
            "kl": _KL_WEIGHT * kl,
        }

    trained_encoder, trained_decoder = context.optimise(
        "structure_vae", networks, [losses], _VAE_BATCH, seconds, use_graphs=True
    )
    scale = _latent_scale(context.dataset, trained_encoder)
    tensors = dict(trained_decoder.state_dict())
    # The flow works on latents of unit scale, and so the decoder has to take them.
    tensors["input_layer.weight"] = tensors["input_layer.weight"] * scale.view(1, -1, 1, 1, 1)
    context.save("ss_dec_tiny", tensors)
    context.save("structure_encoder", trained_encoder.state_dict() | {"spread": scale})
    with torch.no_grad():
        occupancy = make_dataset(_VALIDATION_SIZE, context.device, _FIRST_VALIDATION_SEED).occupancy
        decoded = trained_decoder(trained_encoder(occupancy)[0])[:, 0] > 0
    exact = (decoded & occupancy).sum() / (decoded | occupancy).sum()
    tolerant = _mean_tolerant_iou(decoded, occupancy)
    context.write_log({"stage": "structure_vae", "tolerant_iou": tolerant, "iou": float(exact)})


def _mean_tolerant_iou(decoded: Tensor, occupancy: Tensor) -> float:
    return mean(tolerant_iou(*pair) for pair in zip(decoded, occupancy, strict=True))


@torch.no_grad()
def _latent_scale(dataset: Dataset, encoder: nn.Module) -> Tensor:
    """Return the root mean square [8] of the latents by channel."""
    occupancy = dataset.occupancy[dataset.spaced_rows(1024)]
    means = torch.cat([encoder(part)[0] for part in occupancy.split(64)])
    return means.square().mean(dim=(0, 2, 3, 4)).sqrt()


@torch.no_grad()
def encode_structures(context: TrainingContext) -> Tensor:
    """Return the training set's latents [N, 8, 16, 16, 16] float16, of unit scale, which the flow has to generate."""
    tensors = load_file(context.folder / "structure_encoder.safetensors")
    scale = tensors.pop("spread").to(context.device).view(1, -1, 1, 1, 1)
    encoder = StructureEncoder()
    encoder.load_state_dict(tensors)
    encoder.to(context.device).eval()
    return torch.cat([(encoder(part)[0] / scale).half() for part in context.dataset.occupancy.split(256)])


def train_structure_flow(context: TrainingContext, seconds: float) -> None:
    """Train the flow of structures, and with it the two encoders."""
    flow, encoders = context.build("ss_flow_tiny"), PromptEncoders(context.dataset, context.folder, trained=False)
    if context.device.type == "cuda":
        for block in flow.blocks:
            block.compile(dynamic=False)
    # Image tokens have to predict the contents of their patches: the flow alone is slow to teach them where those are
    # in space, and never teaches them the colours, which the latents need.
    patch_head = nn.Linear(TOKEN_WIDTH, PATCH_CHANNELS).to(context.device)
    samples = encode_structures(context)

    def image_losses(rows: Tensor) -> dict[str, Tensor]:
        with context.autocast():
            conditions, tokens = encoders.image_conditions(rows)
            loss = structure_loss(flow, samples[rows], conditions)
        targets = context.dataset.patches[rows].float()
        predicted = patch_head(tokens[:, -targets.shape[1] :].float())
        return {"velocity": loss, "patches": _PATCH_WEIGHT * F.mse_loss(predicted, targets)}

    def text_losses(rows: Tensor) -> dict[str, Tensor]:
        with context.autocast():
            loss = structure_loss(flow, samples[rows], encoders.text_conditions(rows))
        return {"velocity of sentences": loss}

    networks = [flow, encoders.image, encoders.text, patch_head]
    turns = [image_losses, image_losses, image_losses, text_losses]
    trained = context.optimise("structure_flow", networks, turns, _FLOW_BATCH, seconds, use_graphs=True)
    trained_flow, encoders.image, encoders.text, _ = trained
    context.save("ss_flow_tiny", trained_flow.state_dict())
    encoders.save(context.folder)
    _log_validation(context, trained_flow, encoders)


@torch.no_grad()
def _log_validation(context: TrainingContext, flow: Any, encoders: PromptEncoders) -> None:
    """Log how well structures of held-out objects are sampled."""
    held_out = make_dataset(_VALIDATION_SIZE, context.device, _FIRST_VALIDATION_SEED)
    decoder = context.load("ss_dec_tiny")
    tokens = encoders.image_tokens(held_out.images)
    contexts = {0: tokens, NEGATIVE: torch.zeros_like(tokens)}
    times = schedule(12, 3.0)

    def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
        time = torch.full((len(x),), 1000 * times[step], device=x.device)
        return [flow(x, time, contexts[index]) for index in indices]

    for strength in (0.0, 2.5):
        params = SamplerParams(12, strength, (0.5, 1.0), 3.0)
        x = torch.randn(len(tokens), flow.in_channels, *[flow.resolution] * 3, device=context.device)
        for step in euler_steps(velocities, x, Conditions((tokens,), contexts[NEGATIVE]), params):
            x = step.x_next
        tolerant = _mean_tolerant_iou(decoder(x)[:, 0] > 0, held_out.occupancy)
        context.write_log({"stage": "structure_flow", "strength": strength, "tolerant_iou": tolerant})
