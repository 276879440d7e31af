"""Held-out objects as evaluation samples, and the evaluation of a model on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from pipeline import SamplerParams
from pipeline.scoring.similarity import render_rgba
from scripts.train_tiny.data.dataset import FIRST_HELD_OUT_SEED
from scripts.train_tiny.data.distance_fields import ObjectBatch
from scripts.train_tiny.data.objects import make_object
from scripts.train_tiny.data.rendering import render
from scripts.train_tiny.data.voxels import voxelize
from scripts.train_tiny.eval.metrics import Metrics, compute_metrics, render_object, retrieval_accuracy, view_cameras
from scripts.train_tiny.eval.model import ModelUnderTest, Prompt

PROMPT_SIZE = 512
# Each result is matched with the prompts of this many objects.
RETRIEVAL_SIZE = 20


@dataclass(frozen=True, eq=False)
class EvalSample:
    """An object: its prompt, the seed of the noise, its occupancy [64, 64, 64] bool and its views [2, 4, S, S]."""

    prompt: Prompt
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


@dataclass(frozen=True)
class EvalResult:
    """The metrics of each sample, and the share of results matched to their own prompt among 20; NaN below 20."""

    metrics: list[Metrics]
    matched: float


def evaluate(
    model: ModelUnderTest, samples: Sequence[EvalSample], structure: SamplerParams, latents: SamplerParams
) -> EvalResult:
    """Generate all samples, and compare the results with the objects."""
    metrics, front_views = [], []
    for sample in samples:
        conditions = model.encode(sample.prompt)
        logits = model.structure(conditions, sample.seed, structure)
        splats = model.splats(conditions, sample.seed, logits, latents)
        views = torch.zeros_like(sample.views) if splats is None else render_rgba(splats, view_cameras())
        metrics.append(compute_metrics(logits[0, 0] > 0, sample.occupancy, views, sample.views))
        front_views.append(views[0])
    shares = []
    for start in range(0, len(samples) - RETRIEVAL_SIZE + 1, RETRIEVAL_SIZE):
        chunk = slice(start, start + RETRIEVAL_SIZE)
        true_views = torch.stack([sample.views[0] for sample in samples[chunk]])
        shares.append(retrieval_accuracy(torch.stack(front_views[chunk]), true_views))
    return EvalResult(metrics, sum(shares) / len(shares) if shares else float("nan"))
