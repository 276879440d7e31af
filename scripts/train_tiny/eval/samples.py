"""Held-out objects as evaluation samples, and the evaluation of a model on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from pipeline import SamplerParams, Splats, choose_compute, flip_up_axis
from pipeline.conditioning.preprocessing import frame_object
from pipeline.params import Conditions
from pipeline.scoring.similarity import render_rgba
from pipeline.trellis import VoxelGrid
from pipeline.trellis.structure_decoder import occupied_voxels
from pipeline.weights.locate import locate
from scripts.loaded_checkpoint import LoadedCheckpoint
from scripts.train_tiny.data.dataset import FIRST_HELD_OUT_SEED
from scripts.train_tiny.data.distance_fields import ObjectBatch
from scripts.train_tiny.data.objects import make_object
from scripts.train_tiny.data.rendering import render
from scripts.train_tiny.data.voxels import voxelize
from scripts.train_tiny.eval.metrics import Metrics, compute_metrics, render_object, retrieval_accuracy, view_cameras

PROMPT_SIZE = 512
# Each result is matched with the prompts of this many objects.
RETRIEVAL_SIZE = 20


@dataclass(frozen=True, eq=False)
class EvalSample:
    """An object: its prompt, the seed of the noise, its occupancy [64, 64, 64] bool and its views [2, 4, S, S]."""

    prompt: Image.Image | str
    seed: int
    occupancy: Tensor
    views: Tensor


def held_out_object(number: int, device: torch.device) -> tuple[str, ObjectBatch]:
    """Return the caption of a held-out object, and the object as a batch of one."""
    toy = make_object(FIRST_HELD_OUT_SEED + number)
    return toy.caption, ObjectBatch.pack([toy.primitives], device)


def render_prompt(single: ObjectBatch) -> Image.Image:
    """Render a batch of one object as a prompt: an image with an alpha channel."""
    rgba = (render(single, PROMPT_SIZE)[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(rgba, "RGBA")


@torch.inference_mode()
def make_samples(first: int, count: int, device: torch.device, *, text: bool) -> list[EvalSample]:
    """Make samples of the held-out objects from number `first` on, with captions or images as prompts."""
    samples = []
    for number in range(first, first + count):
        caption, single = held_out_object(number, device)
        prompt = caption if text else render_prompt(single)
        samples.append(EvalSample(prompt, number, voxelize(single)[0], render_object(single)))
    return samples


def load_model(reference: str, device: str) -> LoadedCheckpoint:
    """Load a checkpoint in float32 for the plain path, so that figures are reproducible. Raises CheckpointError."""
    return LoadedCheckpoint.load(locate(reference, "pipeline.json"), choose_compute(device, "float32", "plain"))


def encode(model: LoadedCheckpoint, prompt: Image.Image | str) -> Conditions:
    """Return the conditions of both samplers for a text, or an image with alpha."""
    return model.conditions(prompt if isinstance(prompt, str) else frame_object(prompt))


def sample_structure(model: LoadedCheckpoint, conditions: Conditions, seed: int, params: SamplerParams) -> Tensor:
    """Sample a structure; return the logits [1, 1, 64, 64, 64]."""
    noise = torch.randn(1, *model.engine.structure_shape, generator=torch.Generator().manual_seed(seed))
    return model.engine.decode_structure(model.engine.sample_structure(conditions, params, noise))


def sample_splats(
    model: LoadedCheckpoint, conditions: Conditions, seed: int, logits: Tensor, params: SamplerParams
) -> Splats | None:
    """Sample upright splats on a structure; None if no voxel is occupied."""
    if not bool((logits > 0).any()):
        return None
    grid, engine = VoxelGrid(occupied_voxels(logits)), model.engine
    noise = torch.randn(len(grid), engine.latent_channels, generator=torch.Generator().manual_seed(seed + 1))
    return flip_up_axis(engine.decode_latents(engine.sample_latents(conditions, params, grid, noise), grid))


@dataclass(frozen=True)
class EvalResult:
    """The metrics of each sample, and the share of results matched to their own prompt among 20; NaN below 20."""

    metrics: list[Metrics]
    matched: float


@torch.inference_mode()
def evaluate(
    model: LoadedCheckpoint, samples: Sequence[EvalSample], structure: SamplerParams, latents: SamplerParams
) -> EvalResult:
    """Generate all samples, and compare the results with the objects."""
    metrics, front_views = [], []
    for sample in samples:
        conditions = encode(model, sample.prompt)
        logits = sample_structure(model, conditions, sample.seed, structure)
        splats = sample_splats(model, conditions, sample.seed, logits, latents)
        views = torch.zeros_like(sample.views) if splats is None else render_rgba(splats, view_cameras())
        metrics.append(compute_metrics(logits[0, 0] > 0, sample.occupancy, views, sample.views))
        front_views.append(views[0])
    shares = []
    for start in range(0, len(samples) - RETRIEVAL_SIZE + 1, RETRIEVAL_SIZE):
        chunk = slice(start, start + RETRIEVAL_SIZE)
        true_views = torch.stack([sample.views[0] for sample in samples[chunk]])
        shares.append(retrieval_accuracy(torch.stack(front_views[chunk]), true_views))
    return EvalResult(metrics, sum(shares) / len(shares) if shares else float("nan"))
